"""RAFT-small for optical flow (Teed and Deng, ECCV 2020).

python launch/generate.py --config flow_pairs --data_dir data
python launch/train.py --config configs/raft.py --workdir workdirs/raft-small

The settings are those of the paper's first stage, on FlyingChairs; the data here is exact flow of
the project's own layered scenes.
Cost: 100,000 steps of 10 pairs; meant for a GPU, not measured here.
Expected: not known; not trained to the end here.

Variants follow a colon:

  small  hours on a CPU, see below
  tiny   a smoke test; a minute or two on a CPU (data `tiny_pairs`)
"""

from ml_collections import ConfigDict

from configs.common import apply_variants, base_config


def get_config(variants: str = "") -> ConfigDict:
    """The paper's configuration with `variants` (comma separated names) applied."""
    return apply_variants(_paper(), variants, VARIANTS)


def _paper() -> ConfigDict:
    config = base_config()
    config.name = "raft-small"
    config.task = "optical_flow"

    # Model: the fields of RAFTConfig.
    model = config.model = ConfigDict()
    model.small = True  # RAFT-small; RAFT itself, with its batch norm, is not trained here
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two

    # Data, with flow at the rendering resolution.
    config.data.train = "flow_pairs"
    config.data.validation = "flow_pairs"
    config.data.crop = (224, 384)  # rows and columns of training pairs; the paper's are 368x496

    # Loss.
    loss = config.loss = ConfigDict()
    loss.gamma = 0.8  # weight of an iteration's error relative to the next one's
    loss.iterations = 12  # of refinement, in training

    config.batch_size = 10
    config.steps = 100_000
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 5_000  # 5 % of the training
    config.optimizer.decay = "linear"  # with the warm-up, one cycle
    config.optimizer.final_fraction = 0.0
    config.optimizer.clip_norm = 1.0
    config.optimizer.weight_decay = 1e-4
    return config


def _small(config: ConfigDict) -> None:
    """Smaller crops, fewer pairs and steps, for CPU cores.

    python launch/train.py --config configs/raft.py:small --workdir workdirs/raft-small-cpu
    Cost: 10,000 steps of about 1.2 s on two cores.
    Expected: not known. 2,600 steps, with a warm-up of 130 and 1,200 sequences with photographs,
    reach an end-point error of 1.24 px, and as many again, with half the learning rate, 0.97 px;
    all 10,000 have not been run.
    """
    config.data.crop = (128, 192)
    config.batch_size = 4
    config.steps = 10_000
    config.optimizer.warmup_steps = 500
    config.log_every = 20
    config.evaluate_every = 1_000
    config.checkpoint_every = 250


def _tiny(config: ConfigDict) -> None:
    """A smoke test."""
    config.name = "raft-small-tiny"
    config.data.train = "tiny_pairs"
    config.data.validation = "tiny_pairs"
    config.data.crop = (64, 64)
    config.loss.iterations = 4
    config.batch_size = 2
    config.steps = 60
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 3
    config.log_every = 5
    config.evaluate_every = 30
    config.strips = (0, 1)
    config.checkpoint_every = 30


VARIANTS = {"small": _small, "tiny": _tiny}

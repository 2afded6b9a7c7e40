"""Training of RAFT-small for optical flow: the RAFT paper's settings, and variants of them.

RAFT: Teed and Deng, "Recurrent All-Pairs Field Transforms for Optical Flow" (ECCV 2020). The
settings are those of its first stage of training, on FlyingChairs: 100,000 steps of 10 pairs. Here
the data is the project's own, exact flow of layered scenes:

python launch/generate.py --config flow_pairs --data_dir data
python launch/train.py --config configs/raft.py --workdir workdirs/raft-small

Its cost has not been measured here: it is meant for a GPU. `configs/raft.py:small` is what CPU
cores train in hours; `configs/raft.py:tiny` (data `tiny_pairs`) takes a minute or two on a CPU and
shows that everything works, and nothing else.
"""

from ml_collections import ConfigDict


def get_config(variants: str = "") -> ConfigDict:
    """The paper's configuration with `variants` (comma separated names) applied."""
    config = _paper()
    for name in filter(None, variants.split(",")):
        if name not in VARIANTS:
            raise ValueError(f"unknown variant {name!r}; choose from {', '.join(VARIANTS)}")
        VARIANTS[name](config)
    return config


def _paper() -> ConfigDict:
    config = ConfigDict()
    config.name = "raft-small"  # name of the exported weights
    config.task = "optical_flow"  # what is learned
    config.seed = 0  # parameters and the order of the data

    # Model; a field for each of RAFTConfig's.
    model = config.model = ConfigDict()
    model.small = True  # RAFT-small; RAFT itself, with its batch norm, is not trained here
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two
    config.init_weights = ""  # flow weights or workdir to start from; empty: random parameters

    # Data.
    data = config.data = ConfigDict()
    data.dir = "data"  # where launch/generate.py wrote the dataset
    data.train = "flow_pairs"  # dataset config to train on; flow at the rendering resolution
    data.validation = "flow_pairs"  # dataset config to evaluate on
    data.crop = (224, 384)  # rows and columns of training pairs; the paper's are 368x496
    data.workers = 0  # worker processes of the loader; 0 loads in this process

    # Loss.
    loss = config.loss = ConfigDict()
    loss.gamma = 0.8  # weight of a step's error over that of the next
    loss.iterations = 12  # steps of refinement in training

    # Optimisation.
    config.batch_size = 10  # pairs per step, over all devices of all processes
    config.accumulate = 1  # parts of a batch that go through a device one after the other
    config.parallel = "jit"  # how a step runs on several devices: "jit" or "pmap"
    # What the lengths below are given in: "steps", or "samples" (pairs, whatever the batch size).
    # They are those of the training, the warm-up and everything "every".
    config.counted_in = "steps"
    config.steps = 100_000  # length of the training
    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 4e-4  # AdamW, after the warm-up
    optimizer.warmup_steps = 5_000  # linear, from 0; 5 % of the training
    optimizer.decay = "linear"  # to final_fraction at the end: with the warm-up, one cycle
    optimizer.final_fraction = 0.0  # of the rate, at the end
    optimizer.clip_norm = 1.0  # bound on the norm of the whole gradient
    optimizer.weight_decay = 1e-4  # share of every parameter that a step at rate 1 takes off
    config.ema_decay = 0.0  # moving average of parameters, evaluated and exported; 0: none

    # What is written, and how often.
    config.log_every = 50  # scalars
    config.evaluate_every = 5_000  # validation, strips, run page and exported weights
    config.validation_clips = 0  # at most so many validation pairs; 0: all
    config.strips = (0, 1, 2, 5)  # validation pairs of which strips are drawn, by number from 0
    config.checkpoint_every = 1_000  # resumable state
    config.keep_checkpoints = 3  # newest states kept
    config.keep_best = 1  # and those of the least end-point error, written at evaluations
    config.on_nonfinite = "stop"  # loss or gradient not finite: "stop", or "skip" the step
    config.max_skips = 10  # steps that may be skipped in a row
    config.accept_changes = False  # go on in a workdir that was begun with other settings
    config.export_dtype = "float16"  # of the exported weights
    return config


def _small(config: ConfigDict) -> None:
    """Smaller crops, fewer pairs and steps: what CPU cores train in hours.

    python launch/train.py --config configs/raft.py:small --workdir workdirs/raft-small-cpu
    Cost: about 1.2 s a step on two cores. 1,400 steps, with a warm-up of 70 and 800 sequences, end
    at an end-point error of 1.70 px; all 10,000 have not been run.
    """
    config.data.crop = (128, 192)
    config.batch_size = 4
    config.steps = 10_000
    config.optimizer.warmup_steps = 500
    config.log_every = 20
    config.evaluate_every = 1_000
    config.checkpoint_every = 250


def _tiny(config: ConfigDict) -> None:
    """A first look, and tests."""
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

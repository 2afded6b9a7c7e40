"""Motion Grouping, a baseline of both papers (Yang et al., ICCV 2021).

python launch/train.py --config configs/motion_grouping.py --config.data.videos=VIDEOS \
    --workdir workdirs/motion_grouping

Self-supervised on a folder of videos, whose flow is estimated once at four gaps. The published
models were trained on the evaluation videos themselves, without their annotations, one for each
benchmark; the training had no fixed end. Settings are those of the published program. Its learning
rate is one step late, full at step 0 and 199/200 of its value after the warm-up; not here.
Expected: J of 68.3 on DAVIS2016, 58.6 on SegTrackv2, 53.1 on FBMS-59; not trained to the end here.

Variants follow a colon, applied from left to right:

  three       three foreground slots and one for the background, as for DAVIS2017-motion in the
              papers (J 38.4 there). Their consistency loss for more than two slots is not
              published: the rule of two slots is used
  synthetic   the generated dataset `syn_train` instead of videos, with flow at gaps 1 and -1
  supervised  `three,synthetic` with true masks (J 44.9 on DAVIS2017-motion in the papers). Number
              of slots and loss are not published: here the cross-entropy of matched masks is added
              to the reconstruction
  small       a quarter of the pixels and half the widths, for CPU cores
  tiny        a smoke test (data `tiny`)
"""

from ml_collections import ConfigDict

from configs.common import apply_variants, base_config, small_schedule, tiny_schedule


def get_config(variants: str = "") -> ConfigDict:
    """The paper's configuration with `variants` (comma separated names) applied."""
    return apply_variants(_paper(), variants, VARIANTS)


def _paper() -> ConfigDict:
    config = base_config()
    config.name = "motion-grouping"
    config.task = "motion_grouping"

    # Model: the fields of MotionGroupingConfig.
    model = config.model = ConfigDict()
    model.slots = 2  # the background's included
    model.sees = "colors"  # flow as "colors", or as "uv" in pixels
    model.height = 128  # rows of the flow
    model.width = 224  # columns of the flow
    model.channels = (64, 128, 256)  # of the encoder's levels; the last one of the slots
    model.decoder_channels = 64
    model.iterations = 5  # of slot attention
    model.gaps = (1, 2, -1, -2)  # of the flows of a frame; (3, 6, -3, -6) for FBMS-59
    model.frames = 30  # of a window in which objects are tracked; the model has no time
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two

    # Data.
    data = config.data
    data.videos = ""  # folder of video files or folders of frames; empty: a generated dataset
    data.estimator = "dis"  # of the videos' flow, or a folder of flow files: as the option --flow
    data.train = "syn_train"
    data.validation = "syn_val"
    data.frames = 1  # of a generated clip

    # Loss: the fields of MotionGroupingWeights.
    loss = config.loss = ConfigDict()
    loss.reconstruction = 100.0
    loss.entropy = 0.01
    loss.consistency = 0.01
    loss.masks = 0.0  # cross-entropy with true masks, for the supervised variant
    loss.growth = 5.0  # entropy and consistency are multiplied by this ...
    loss.grow_every = 80_000  # ... after so many steps, again and again

    config.batch_size = 32
    config.steps = 300_000
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 200
    config.optimizer.clip_value = 1e9  # no clipping
    return config


def _three(config: ConfigDict) -> None:
    """Three foreground slots and one for the background.

    python launch/train.py --config configs/motion_grouping.py:three \
        --config.data.videos=VIDEOS --workdir workdirs/motion_grouping_three
    """
    config.name = "motion-grouping-three"
    config.model.slots = 4


def _synthetic(config: ConfigDict) -> None:
    """Generated clips instead of videos.

    python launch/train.py --config configs/motion_grouping.py:synthetic \
        --workdir workdirs/motion_grouping_synthetic
    """
    config.name = f"{config.name}-synthetic"
    config.model.gaps = (1, -1)


def _supervised(config: ConfigDict) -> None:
    """True masks, three foreground slots.

    python launch/train.py --config configs/motion_grouping.py:supervised \
        --workdir workdirs/motion_grouping_supervised
    """
    _three(config)
    _synthetic(config)
    config.name = "motion-grouping-supervised"
    config.loss.masks = 1.0
    config.loss.reconstruction = 1.0
    config.loss.entropy = 0.0
    config.loss.consistency = 0.0


def _small(config: ConfigDict) -> None:
    """A quarter of the pixels and half the widths, for CPU cores.

    python launch/train.py --config configs/motion_grouping.py:small \
        --config.data.videos=VIDEOS --workdir workdirs/motion_grouping_small
    """
    config.name = f"{config.name}-small"
    config.model.height = 64
    config.model.width = 112
    config.model.channels = (32, 64, 128)
    config.model.decoder_channels = 32
    config.batch_size = 8
    config.optimizer.decay = "cosine"
    small_schedule(config)


def _tiny(config: ConfigDict) -> None:
    """A smoke test; on generated clips."""
    config.name = f"{config.name}-tiny"
    config.model.gaps = (1, -1)
    config.model.height = 32
    config.model.width = 48
    config.model.channels = (8, 8, 16)
    config.model.decoder_channels = 8
    config.model.iterations = 2
    config.data.frames = 2
    config.strips = (0, 1)
    tiny_schedule(config)
    config.optimizer.learning_rate = 2e-3


VARIANTS = {
    "three": _three,
    "synthetic": _synthetic,
    "supervised": _supervised,
    "small": _small,
    "tiny": _tiny,
}

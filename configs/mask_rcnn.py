"""Mask R-CNN on optical flow, a baseline of both papers (He et al., ICCV 2017).

python launch/train.py --config configs/mask_rcnn.py --workdir workdirs/mask_rcnn

The papers publish nothing about it but its inputs and its results. All settings are chosen here:
ResNet-50-FPN from random parameters, frames as independent images, Adam, 100,000 steps of 16
frames.
Expected: J of 50.4 on DAVIS2017-motion in the first paper and 52.0 in the second, 49.8 with frames
too; not trained to the end here.

Variants follow a colon, applied from left to right:

  rgb    frames as further input
  small  narrow layers and half of the rows and columns, for CPU cores
  tiny   a smoke test (data `tiny`)
"""

from ml_collections import ConfigDict

from configs.common import apply_variants, base_config, small_schedule, tiny_schedule


def get_config(variants: str = "") -> ConfigDict:
    """The base configuration with `variants` (comma separated names) applied."""
    return apply_variants(_base(), variants, VARIANTS)


def _base() -> ConfigDict:
    config = base_config()
    config.name = "mask-rcnn"
    config.task = "mask_rcnn"

    # Model: the fields of MaskRCNNConfig.
    model = config.model = ConfigDict()
    model.inputs = "flow"  # or "rgb+flow"
    model.height = 128  # rows of the input
    model.width = 224  # columns of the input
    model.stem = 64  # channels of the first stage of the ResNet
    model.blocks = (3, 4, 6, 3)  # of its four stages
    model.features = 256  # channels of the pyramid and of the mask head
    model.hidden = 1024  # units of the box head
    model.candidates = 256  # proposals of each level, before suppression
    model.proposals = 128  # of a frame, after suppression
    model.detections = 3  # of a frame, at most
    model.min_score = 0.5  # of a detection
    model.gaps = (1, -1)  # of the flow
    model.frames = 30  # of a window in which objects are tracked; the model has no time
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two

    # Data.
    config.data.train = "syn_train"
    config.data.validation = "syn_val"
    config.data.frames = 2  # of a clip; frames of a clip are alike

    # Loss: the fields of MaskRCNNLoss.
    loss = config.loss = ConfigDict()
    loss.objectness = 1.0
    loss.proposal_box = 1.0
    loss.score = 1.0
    loss.box = 1.0
    loss.mask = 1.0
    loss.anchors = 256  # of a frame, that the proposals are learned from
    loss.proposals = 64  # of a frame, that boxes and masks are learned from

    config.batch_size = 8
    config.steps = 100_000
    config.optimizer.learning_rate = 1e-4
    config.optimizer.warmup_steps = 1_000
    config.optimizer.decay = "cosine"
    config.optimizer.clip_norm = 10.0
    config.optimizer.weight_decay = 1e-4
    return config


def _rgb(config: ConfigDict) -> None:
    """Frames as further input.

    python launch/train.py --config configs/mask_rcnn.py:rgb --workdir workdirs/mask_rcnn_rgb
    """
    config.name = f"{config.name}-rgb"
    config.model.inputs = "rgb+flow"


def _small(config: ConfigDict) -> None:
    """Narrow layers and half of the rows and columns, for CPU cores.

    python launch/train.py --config configs/mask_rcnn.py:small --workdir workdirs/mask_rcnn_small
    """
    config.name = f"{config.name}-small"
    config.model.height = 64
    config.model.width = 128
    config.model.stem = 16
    config.model.blocks = (2, 2, 2, 2)
    config.model.features = 48
    config.model.hidden = 128
    config.model.candidates = 64
    config.model.proposals = 48
    config.loss.anchors = 128
    config.loss.proposals = 32
    config.batch_size = 4
    config.optimizer.learning_rate = 1e-3
    config.optimizer.warmup_steps = 100
    config.ema_decay = 0.99
    small_schedule(config)


def _tiny(config: ConfigDict) -> None:
    """A smoke test."""
    config.name = f"{config.name}-tiny"
    config.model.height = 32
    config.model.width = 64
    config.model.stem = 4
    config.model.blocks = (1, 1, 1, 1)
    config.model.features = 8
    config.model.hidden = 16
    config.model.candidates = 16
    config.model.proposals = 12
    config.loss.anchors = 32
    config.loss.proposals = 16
    config.strips = (0, 1)
    tiny_schedule(config)


VARIANTS = {"rgb": _rgb, "small": _small, "tiny": _tiny}

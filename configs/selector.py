"""The mask selector of the second paper (Xie et al., ECCV 2024, section 3.2).

python launch/predict_masks.py data/oclr_syn/syn_train/2.0.0
python launch/predict_masks.py data/oclr_syn/syn_val/2.0.0
python launch/train.py --config configs/selector.py --workdir workdirs/selector

The schedule is the paper's: 4 days on one V100 (supplement, section A.3). Its length is not
published; 600,000 steps are those of the flow model. Not trained to the end here.
Expected: average precision of 0.893 on DAVIS2017-motion with error maps, 0.832 with scores (table
3).

Variants follow a colon:

  own    a backbone that is trained together with the selector, for a training without DINO
  score  predicts one score per mask (table 3)
  small  hours on a CPU, with the backbone `own`
  tiny   a smoke test (data `tiny`)
"""

from ml_collections import ConfigDict

from configs.common import (
    add_corruption,
    apply_variants,
    base_config,
    refinement_small,
    refinement_tiny,
)


def get_config(variants: str = "") -> ConfigDict:
    """The paper's configuration with `variants` (comma separated names) applied."""
    return apply_variants(_paper(), variants, VARIANTS)


def _paper() -> ConfigDict:
    config = base_config()
    config.name = "selector"
    config.task = "selector"

    # Model: the fields of SelectorConfig.
    model = config.model = ConfigDict()
    model.frames = 100  # most frames that inference compares in one pass
    model.exemplars = 10  # t, masks selected per object
    model.height = 128  # rows of frames and masks
    model.width = 224  # columns of frames and masks
    model.channels = (16, 32, 64, 128, 256)  # U-Net widths, bottleneck last
    model.layers = 3  # transformer layers
    model.heads = 8  # attention heads
    model.feedforward = 256  # hidden units of the feed-forward layers
    model.dropout = 0.1  # on residual branches and attention weights
    model.backbone = "dino_vits16"  # or dino_vits8, dinov2_vits14, mae_vitb16, own
    model.feature_channels = 384  # of the backbone
    model.predicts = "error_map"  # or "score"
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two

    # Data.
    data = config.data
    data.train = "syn_train"
    data.validation = "syn_val"
    data.frames = 30  # of a clip
    data.stride = 1  # largest distance between consecutive frames of a training clip
    data.predicted = "oclr-small"  # masks that launch/predict_masks.py stored with the datasets
    add_corruption(config)

    config.batch_size = 1
    config.steps = 600_000
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_steps = 40_000
    return config


def _own(config: ConfigDict) -> None:
    """A backbone that is trained together with the selector."""
    config.name = "selector-own"
    config.model.backbone = "own"
    config.model.feature_channels = 128


def _score(config: ConfigDict) -> None:
    """Table 3: one score per mask instead of an error map."""
    config.name = "selector-score"
    config.model.predicts = "score"


def _small(config: ConfigDict) -> None:
    """Narrow layers and short clips, for CPU cores.

    python launch/train.py --config configs/selector.py:small --workdir workdirs/selector-small
    Cost: 6,000 steps of about 28 GFLOP. Expected: not known; not trained yet.
    """
    _own(config)
    config.name = "refine-small-selector"
    config.model.frames = 25
    config.model.height = 64
    config.model.width = 112
    config.model.channels = (8, 16, 32, 64, 128)
    config.model.layers = 2
    config.model.feedforward = 128
    config.model.feature_channels = 64
    config.steps = 6_000
    refinement_small(config)


def _tiny(config: ConfigDict) -> None:
    """Seconds on a CPU: a smoke test."""
    _own(config)
    config.name = "selector-tiny"
    refinement_tiny(config)


VARIANTS = {"own": _own, "score": _score, "small": _small, "tiny": _tiny}

"""The mask corrector of the second paper (Xie et al., ECCV 2024, section 3.3).

python launch/predict_masks.py data/oclr_syn/syn_train/2.0.0
python launch/predict_masks.py data/oclr_syn/syn_val/2.0.0
python launch/train.py --config configs/corrector.py --workdir workdirs/corrector

The schedule is the paper's: 4 days on one V100 (supplement, section A.3). Its length and the
weights of the loss terms are not published; 600,000 steps are those of the flow model. Not trained
to the end here.
Expected: 60.0 J on DAVIS2017-motion, from 54.5 before (table 4).

Variants follow a colon:

  own         a backbone that is trained together with the corrector, for a training without DINO
  alphas      upsamples the alphas of the reconstruction (table 5; 55.8)
  dense       one query per target token instead of one per object (table 5; 59.2)
  upsampling  fine-tunes the upsampling on annotated videos (table 16; 61.5)
  small       hours on a CPU, with the backbone `own`
  tiny        a smoke test (data `tiny`)

Tables 6, 7 and 8: --config.model.frames=5, --config.model.exemplars=5, --config.model.backgrounds=1
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
    config.name = "corrector"
    config.task = "corrector"

    # Model: the fields of CorrectorConfig.
    model = config.model = ConfigDict()
    model.objects = 3  # K, objects of a window
    model.backgrounds = 4  # K_bg, learned queries of the background
    model.frames = 7  # T, frames of a window
    model.exemplars = 10  # t, exemplar masks per object
    model.height = 128  # rows of frames and masks
    model.width = 224  # columns of frames and masks
    model.channels = (64, 128, 256, 512)  # U-Net widths, bottleneck last
    model.layers = 3  # transformer layers
    model.heads = 8  # attention heads; also attention maps per object
    model.feedforward = 384  # hidden units of the feed-forward layers
    model.dropout = 0.1  # on residual branches and self-attention weights
    model.backbone = "dino_vits8"  # or dino_vits16, dinov2_vits14, mae_vitb16, own
    model.feature_channels = 384  # of the backbone and the queries
    model.masks_from = "attention"  # or "alphas", "dense"
    model.mask_logit = 0.0  # added to the logits inside the given masks, subtracted outside
    model.distance_logit = 0.0  # subtracted per distance from the given mask in object sizes
    model.keep_steady = False  # in use, leaves objects that a correction makes less steady
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two

    # Data.
    data = config.data
    data.train = "syn_train"
    data.validation = "syn_val"
    data.frames = 30  # of a clip: the window, and where exemplars come from
    data.stride = 1  # largest distance between consecutive frames of a training clip
    data.predicted = "oclr-small"  # masks that launch/predict_masks.py stored with the datasets
    data.quality_noise = 0.5  # of the choice of exemplars, standard deviation of a logarithm
    add_corruption(config)

    # Loss: the fields of CorrectorLossWeights.
    loss = config.loss = ConfigDict()
    loss.boundary = 0.2  # cross-entropy in the band around object boundaries
    loss.reconstruction = 0.05  # square error of the features
    loss.alpha = 0.2  # cross-entropy of the objects' alphas
    loss.maps = 0.0  # cross-entropy of the objects' attention maps; not in the paper

    config.batch_size = 2
    config.steps = 600_000
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_steps = 40_000
    return config


def _own(config: ConfigDict) -> None:
    """A backbone that is trained together with the corrector."""
    config.name = "corrector-own"
    config.model.backbone = "own"
    config.model.feature_channels = 128
    config.model.feedforward = 128


def _alphas(config: ConfigDict) -> None:
    """Table 5: the alphas of the reconstruction are upsampled."""
    config.name = "corrector-alphas"
    config.model.masks_from = "alphas"


def _dense(config: ConfigDict) -> None:
    """Table 5: one query per target token."""
    config.name = "corrector-dense"
    config.model.masks_from = "dense"


def _upsampling(config: ConfigDict) -> None:
    """Table 16: the U-Net is fine-tuned on annotated videos, from trained weights.

    python launch/import_annotated.py DAVIS --data_dir data --config annotated_train --split train
    python launch/import_annotated.py VALIDATION --data_dir data --config annotated_val \\
        --split validation
    python launch/predict_masks.py data/oclr_syn/annotated_train/2.0.0
    python launch/predict_masks.py data/oclr_syn/annotated_val/2.0.0
    python launch/train.py --config configs/corrector.py:upsampling \\
        --config.init_weights=REFINE/corrector.safetensors --workdir workdirs/upsampling

    The length is not published; the learning rate is that of the adaptation.
    """
    config.name = "corrector-upsampling"
    config.data.train = "annotated_train"
    config.data.validation = "annotated_val"
    config.steps = 20_000
    config.optimizer.groups = (("(encoder|mix|decoder)/", 1.0), ("", 0.0))
    config.optimizer.learning_rate = 2e-5
    config.optimizer.warmup_steps = 0


def _small(config: ConfigDict) -> None:
    """Narrow layers, short and small clips, for CPU cores.

    python launch/train.py --config configs/corrector.py:small --workdir workdirs/corrector-small
    Cost: 8,000 steps of 0.8 s on one core. The weights `refine-small` took 7,500 steps in three
    runs (docs/training_log.md), of which the last had all of this: J of 0.568 on validation, from
    0.525 before.

    It starts from the given masks, stays near them, and its attention maps are taught to find the
    objects, as a backbone from scratch does not by itself. Masks are corrupted less often than by
    default, so that it learns to leave good ones as they are.
    """
    _own(config)
    config.name = "refine-small-corrector"
    config.model.height = 64
    config.model.width = 112
    config.model.channels = (16, 32, 64)
    config.model.mask_logit = 2.0
    config.model.distance_logit = 10.0
    config.model.keep_steady = True
    config.loss.maps = 0.5
    corruption = config.corruption
    corruption.truth = 0.2
    corruption.missing = corruption.empty = corruption.lost = 0.15
    corruption.foreign = corruption.blob = corruption.shifted = 0.1
    config.model.layers = 2
    config.model.frames = 4
    config.model.exemplars = 5
    config.model.feature_channels = 96
    config.model.feedforward = 96
    config.batch_size = 1
    config.steps = 8_000
    refinement_small(config)


def _tiny(config: ConfigDict) -> None:
    """Seconds on a CPU: a smoke test."""
    _own(config)
    config.name = "corrector-tiny"
    config.model.frames = 2
    config.model.exemplars = 2
    config.model.backgrounds = 2
    refinement_tiny(config)


VARIANTS = {
    "own": _own,
    "alphas": _alphas,
    "dense": _dense,
    "upsampling": _upsampling,
    "small": _small,
    "tiny": _tiny,
}

"""The OCLR flow model: layers of moving objects from optical flow (OCLR, NeurIPS 2022).

python launch/train.py --config configs/oclr_flow.py --workdir workdirs/full

Cost: 600,000 steps of 2 clips of 30 frames, 2.17e12 FLOPs each by XLA's count; in the paper 5 days
on one V100 (supplement, section A.3). `python launch/benchmark.py train` measures a step on this
machine.
Expected: J 72.1 on DAVIS2016 in the paper; not trained to the end here.

Variants follow a colon and are applied from left to right: `configs/oclr_flow.py:released,tiny`.

  small     the model that ships with the package; hours on a CPU. Expected: J 74.1 on dev-4, after
            fourteen more runs on larger data
  tiny      a smoke test; about a minute on a CPU (data `tiny`)
  released  with the additional loss of the published program
  ours_a to ours_i   the experiments of the supplement's tables E6 (a to c: data) and E7 (d to i:
            training). Table 1 of the main paper has five of them under other letters: its A, B, C,
            D and E are E7's D, F, G, H and I. Table E8 repeats `ours_g` with other seeds:
            --config.seed=1, in its own workdir. Costs below are fractions of the cost above;
            expected scores are J in percent, from the paper
"""

from ml_collections import ConfigDict

from configs.common import apply_variants, base_config, tiny_schedule


def get_config(variants: str = "") -> ConfigDict:
    """The paper's configuration with `variants` (comma separated names) applied."""
    return apply_variants(_paper(), variants, VARIANTS)


def _paper() -> ConfigDict:
    config = base_config()
    config.name = "oclr-full"
    config.task = "segmentation"
    config.experiment = ""  # the row of tables E6 to E8 that the training reproduces

    # Model: the fields of OCLRConfig.
    model = config.model = ConfigDict()
    model.queries = 3  # K, layers
    model.frames = 30  # T, frames of a training clip
    model.height = 128  # rows of the model grid
    model.width = 224  # columns of the model grid
    model.channels = (32, 64, 128, 256, 512)  # U-Net widths, bottleneck last
    model.encoder_layers = 3  # transformer layers over the tokens of the clip
    model.decoder_layers = 3  # transformer layers over the queries
    model.heads = 8  # attention heads
    model.feedforward = 512  # hidden units of the feed-forward layers
    model.dropout = 0.1  # on residual branches and attention weights
    model.instance_norm = True  # after every 3x3 convolution
    model.gaps = (1, -1)  # flow gaps in frames
    # Depth order for composing layers in inference and validation: the order "head", which is
    # always trained, or the masks' "overlap" (the layer with the higher logit is in front). With
    # "overlap", the depth order of refined tracks is that of occlusions (refine/depth.py).
    model.order_from = "head"
    # In inference, not in the paper: whether layers of a window that touch and move alike are one,
    # and the number of passes over which a window is averaged (1, 2 or 4; --passes).
    model.join_parts = False
    model.passes = 1
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two
    model.remat = False  # recompute blocks in the backward pass to save memory

    # Data.
    data = config.data
    data.train = "syn_train"
    data.validation = "syn_val"
    data.extra_datasets = ()  # folders of further datasets (with dataset_info.json) to train on
    data.flow = "estimated"  # input of the model: "estimated" or "exact" flow
    data.stride = 1  # largest distance between consecutive frames of a training clip
    # Probability that a part of an object rests for some frames of a clip; not in the paper.
    data.rest = 0.0
    data.swing = 0.0  # probability that a part of an object swings; not in the paper
    data.online = False  # render an endless stream of scenes of `train` instead of reading it
    data.images = ""  # online: folder of textures; empty: procedural
    data.silhouettes = ""  # online: folder of annotations; empty: procedural
    data.videos = ""  # online: folder of background videos; empty: procedural

    # Loss: the fields of LossWeights. The cross-entropy has weight 1.
    loss = config.loss = ConfigDict()
    loss.boundary = 0.2  # cross-entropy in the band around object boundaries
    loss.order = 0.05  # ranking of overlapping layers
    loss.modal = 0.0  # cross-entropy of the modal masks; not in the paper
    loss.query = 0.0  # cross-entropy of the queries' fit to the tokens; not in the paper
    loss.matching = True  # Hungarian matching; without it query i predicts layer i, front to back
    loss.supervision = "amodal"  # supervising masks: "amodal", or "modal" alone

    config.batch_size = 2
    config.steps = 600_000
    config.optimizer.learning_rate = 5e-5
    config.optimizer.warmup_steps = 40_000
    # In the generator's validation data clips 0, 1 and 2 have one, two and three objects in front
    # of an image, and clip 5 has three in front of a video.
    config.strips = (0, 1, 2, 5)
    return config


def _released(config: ConfigDict) -> None:
    """The additional loss of the published program."""
    config.loss.modal = 0.1


def _small(config: ConfigDict) -> None:
    """The model that ships with the package, on a grid that a CPU can train in hours.

    python launch/train.py --config configs/oclr_flow.py:small --workdir workdirs/small

    The shipped weights began with 2,500 steps of this. Fourteen more runs used batches of 6 clips
    of 4 frames, or in the end of 3 or 4 clips of 8 frames with a stride of up to 3, larger weights
    of the query and order terms, and, except for the first, channels (16, 32, 64, 256), whose
    tokens are half as large. Only the last four runs had resting parts, and `dis-sharp` flow, and
    only the last one swinging parts. The card of the weights has every command.
    """
    config.name = "oclr-small"
    config.model.channels = (16, 32, 64, 128, 256)
    config.model.frames = 8
    config.model.height = 64
    config.model.width = 112
    config.model.dropout = 0.0
    # After hours instead of days of training the order head is still at chance.
    config.model.order_from = "overlap"
    config.model.join_parts = True
    config.model.passes = 2
    config.data.train = "syn_small"
    config.data.validation = "syn_small"
    config.data.rest = 0.3
    config.data.swing = 0.4
    config.batch_size = 3
    config.steps = 5_000
    config.loss.query = 1.0
    # At 5e-4 without the query term the encoder returned the same for every clip after 1,500 steps.
    config.optimizer.learning_rate = 3e-4
    config.optimizer.groups = (("unet", 3.0),)
    config.optimizer.warmup_steps = 200
    config.optimizer.decay = "cosine"
    config.ema_decay = 0.998
    config.log_every = 20
    config.evaluate_every = 500
    config.checkpoint_every = 250


def _tiny(config: ConfigDict) -> None:
    """Seconds on a CPU: a smoke test."""
    config.name = "oclr-tiny"
    config.model.channels = (4, 8, 16)
    config.model.heads = 2
    config.model.feedforward = 32
    config.model.encoder_layers = 1
    config.model.decoder_layers = 1
    # Relative to the variants before it, so that T = 15 stays half of T = 30.
    config.model.frames = max(2, config.model.frames * 4 // 30)
    config.model.height = 32
    config.model.width = 48
    tiny_schedule(config)


def _ours_a(config: ConfigDict) -> None:
    """Table E6, A: one object, exact flow, image backgrounds moved by homographies.

    python launch/train.py --config configs/oclr_flow.py:ours_a --workdir workdirs/ours_a
    Cost: 1.
    Expected: 67.4 on DAVIS2016, 52.3 on SegTrackv2, 78.0 on Syn-Single.
    """
    config.name = "oclr-ours-a"
    config.experiment = "ours_a"
    config.data.train = "single_homography"
    config.data.validation = "syn_single"
    config.data.flow = "exact"


def _ours_b(config: ConfigDict) -> None:
    """Table E6, B: as A, with estimated flow.

    python launch/train.py --config configs/oclr_flow.py:ours_b --workdir workdirs/ours_b
    Cost: 1.
    Expected: 68.6 on DAVIS2016, 58.5 on SegTrackv2, 84.7 on Syn-Single.
    """
    _ours_a(config)
    config.name = "oclr-ours-b"
    config.experiment = "ours_b"
    config.data.flow = "estimated"


def _ours_c(config: ConfigDict) -> None:
    """Table E6, C: as B, with video backgrounds as well; the setting of the whole dataset.

    python launch/train.py --config configs/oclr_flow.py:ours_c --workdir workdirs/ours_c
    Cost: 1.
    Expected: 72.0 on DAVIS2016, 62.3 on SegTrackv2, 91.4 on Syn-Single.
    """
    _ours_b(config)
    config.name = "oclr-ours-c"
    config.experiment = "ours_c"
    config.data.train = "single_both"


def _ours_d(config: ConfigDict) -> None:
    """Table E7, D (table 1, A): without instance norm.

    python launch/train.py --config configs/oclr_flow.py:ours_d --workdir workdirs/ours_d
    Cost: 0.997.
    Expected: 67.6 on DAVIS2016, 48.7 on DAVIS2017-motion.
    """
    config.name = "oclr-ours-d"
    config.experiment = "ours_d"
    config.model.instance_norm = False


def _ours_e(config: ConfigDict) -> None:
    """Table E7, E (not in table 1): without Hungarian matching, query i predicts layer i.

    python launch/train.py --config configs/oclr_flow.py:ours_e --workdir workdirs/ours_e
    Cost: 1.
    Expected: 67.4 on DAVIS2016, 44.2 on DAVIS2017-motion.
    """
    config.name = "oclr-ours-e"
    config.experiment = "ours_e"
    config.loss.matching = False


def _ours_f(config: ConfigDict) -> None:
    """Table E7, F (table 1, B): modal masks are the only supervision.

    python launch/train.py --config configs/oclr_flow.py:ours_f --workdir workdirs/ours_f
    Cost: 1.
    Expected: 69.2 on DAVIS2016, 50.5 on DAVIS2017-motion.
    """
    config.name = "oclr-ours-f"
    config.experiment = "ours_f"
    config.loss.supervision = "modal"


def _ours_g(config: ConfigDict) -> None:
    """Table E7, G (table 1, C), and with several seeds table E8: the paper's model itself.

    python launch/train.py --config configs/oclr_flow.py:ours_g --workdir workdirs/ours_g
    For table E8 also: --config.seed=1 --workdir workdirs/ours_g_seed1, and so on.
    Cost: 1, for each seed.
    Expected: 72.1 on DAVIS2016, 54.5 on DAVIS2017-motion.
    """
    config.name = "oclr-ours-g"
    config.experiment = "ours_g"


def _ours_h(config: ConfigDict) -> None:
    """Table E7, H (table 1, D): clips of half as many frames, T = 15.

    python launch/train.py --config configs/oclr_flow.py:ours_h --workdir workdirs/ours_h
    Cost: 0.49.
    Expected: 71.3 on DAVIS2016, 53.5 on DAVIS2017-motion.
    """
    config.name = "oclr-ours-h"
    config.experiment = "ours_h"
    config.model.frames //= 2


def _ours_i(config: ConfigDict) -> None:
    """Table E7, I (table 1, E): without the boundary loss.

    python launch/train.py --config configs/oclr_flow.py:ours_i --workdir workdirs/ours_i
    Cost: 1.
    Expected: 71.5 on DAVIS2016, 54.1 on DAVIS2017-motion.
    """
    config.name = "oclr-ours-i"
    config.experiment = "ours_i"
    config.loss.boundary = 0.0


VARIANTS = {
    "released": _released,
    "small": _small,
    "tiny": _tiny,
    "ours_a": _ours_a,
    "ours_b": _ours_b,
    "ours_c": _ours_c,
    "ours_d": _ours_d,
    "ours_e": _ours_e,
    "ours_f": _ours_f,
    "ours_g": _ours_g,
    "ours_h": _ours_h,
    "ours_i": _ours_i,
}

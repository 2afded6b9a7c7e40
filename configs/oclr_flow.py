"""Training of the OCLR flow model: the paper's settings, and variants that change a few of them.

`configs/oclr_flow.py` alone is the paper's; `configs/oclr_flow.py:small` or `:released,tiny`
applies variants from left to right.

The paper's experiments are the variants `ours_a` to `ours_i`, named as the rows of the supplement's
tables E6 (a to c: data) and E7 (d to i: training). Table 1 of the main paper has five of the same
trainings under other letters: its A, B, C, D and E are E7's D, F, G, H and I. Table E8 repeats
`ours_g` four times; other seeds do that here: `--config.seed=1`, in a workdir of its own.

What one of them costs: 600,000 steps of 2 clips of 30 frames, for which the paper gives 5 days on
one V100 (supplement, section A.3); `launch/benchmark.py train` measures a step on the machine at
hand. Costs below are shares of that, by XLA's count of the FLOPs of a step (2.17e12 for the
paper's). On CPU cores, where such a step takes many seconds, `:ours_d,tiny` and the like show that
everything works, in about a minute each, and nothing else.
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
    config.name = "oclr-full"  # name of the exported weights
    config.task = "segmentation"  # what is learned
    config.experiment = ""  # row of the paper's tables E6 to E8 that the training stands for
    config.seed = 0  # parameters, dropout and the order of the data

    # Model; a field for each of OCLRConfig's.
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
    # What layers are composed by in use and in validation: the order "head", which is trained in
    # any case, or the masks' "overlap" (in front is the layer that is surer there).
    model.order_from = "head"
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two
    model.remat = False  # recompute blocks in the backward pass to save memory
    config.init_weights = ""  # safetensors file or workdir to start from; empty: random parameters

    # Data.
    data = config.data = ConfigDict()
    data.dir = "data"  # where launch/generate.py wrote the dataset
    data.train = "syn_train"  # dataset config to train on
    data.validation = "syn_val"  # dataset config to evaluate on
    data.beside = ()  # folders of further datasets (with a dataset_info.json) to train on as well
    data.flow = "estimated"  # what the model learns from: "estimated" or "exact" flow
    data.stride = 1  # frames of a training clip are at most so many frames apart
    data.online = False  # render scenes of `train` without end, instead of reading it from `dir`
    data.images = ""  # online: folder of textures; empty: procedural
    data.silhouettes = ""  # online: folder of annotations; empty: procedural
    data.videos = ""  # online: folder of background videos; empty: procedural
    data.workers = 0  # worker processes of the loader; 0 loads in this process

    # Loss; the cross-entropy has weight 1. A field for each of LossWeights'.
    loss = config.loss = ConfigDict()
    loss.boundary = 0.2  # cross-entropy in the band around outlines
    loss.order = 0.05  # ranking of layers that overlap
    loss.modal = 0.0  # cross-entropy of the modal masks; not in the paper
    loss.query = 0.0  # cross-entropy of the queries' fit to the tokens; not in the paper
    loss.matching = True  # Hungarian matching; off: layer i, front to back, belongs to query i
    loss.supervision = "amodal"  # masks to learn from: "amodal", or "modal" alone

    # Optimisation.
    config.batch_size = 2  # clips per step, over all devices of all processes
    config.accumulate = 1  # parts of a batch that go through a device one after the other
    config.parallel = "jit"  # how a step runs on several devices: "jit" or "pmap"
    # What the lengths below are given in: "steps", or "samples" (clips, whatever the batch size).
    # They are those of the training, the warm-up, between halvings, and everything "every".
    config.counted_in = "steps"
    config.steps = 600_000  # length of the training
    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 5e-5  # Adam, after the warm-up
    optimizer.warmup_steps = 40_000  # linear, from 0
    optimizer.decay = "halving"  # or "cosine" or "linear" to final_fraction over the training
    optimizer.halve_every = 80_000  # steps between halvings, counted from step 0
    optimizer.max_halvings = 9  # then the rate stays
    optimizer.final_fraction = 0.01  # of the rate, where cosine and linear decay end
    optimizer.clip_value = 5.0  # every component of the gradient is clipped to [-5, 5]
    optimizer.clip_norm = 0.0  # bound on the norm of the whole gradient; 0: none
    optimizer.weight_decay = 0.0  # share of every parameter that a step at rate 1 takes off (AdamW)
    optimizer.unet_factor = 1.0  # rate of the U-Net over that of the transformer
    config.ema_decay = 0.0  # moving average of parameters, evaluated and exported; 0: none

    # What is written, and how often.
    config.log_every = 50  # scalars
    config.evaluate_every = 5_000  # validation, image strips, run page and exported weights
    config.validation_clips = 0  # at most so many validation clips; 0: all
    # Validation clips of which strips are drawn, by number from 0: with the generator's data one,
    # two and three objects before an image, and three before a video.
    config.strips = (0, 1, 2, 5)
    config.checkpoint_every = 1_000  # resumable state
    config.keep_checkpoints = 3  # newest states kept
    config.keep_best = 1  # and those of the best modal J in validation, written at evaluations
    config.on_nonfinite = "stop"  # loss or gradient not finite: "stop", or "skip" the step
    config.max_skips = 10  # steps that may be skipped in a row
    config.accept_changes = False  # go on in a workdir that was begun with other settings
    config.export_dtype = "float16"  # of the exported weights
    return config


def _released(config: ConfigDict) -> None:
    """The released program's additional loss."""
    config.loss.modal = 0.1


def _small(config: ConfigDict) -> None:
    """The model that ships in the package, on a grid that a CPU can train in hours.

    The shipped weights began with 2,500 steps of this. Ten more runs had batches of 6 clips of 4
    frames, or at last of 3 clips of 8 frames up to 3 apart, larger weights of the query and the
    order term, and all but the first of them channels (16, 32, 64, 256), whose tokens are half as
    large; the weights' card holds every command.
    """
    config.name = "oclr-small"
    config.model.channels = (16, 32, 64, 128, 256)
    config.model.frames = 8
    config.model.height = 64
    config.model.width = 112
    config.model.dropout = 0.0
    # Trained for hours and not for days, the order head stays at chance.
    config.model.order_from = "overlap"
    config.data.train = "syn_small"
    config.data.validation = "syn_small"
    config.batch_size = 3
    config.steps = 5_000
    config.loss.query = 1.0
    # At 5e-4 without the query term the encoder gave every clip the same after 1,500 steps.
    config.optimizer.learning_rate = 3e-4
    config.optimizer.unet_factor = 3.0
    config.optimizer.warmup_steps = 200
    config.optimizer.decay = "cosine"
    config.ema_decay = 0.998
    config.log_every = 20
    config.evaluate_every = 500
    config.checkpoint_every = 250


def _tiny(config: ConfigDict) -> None:
    """Seconds on a CPU: for tests and for a first look."""
    config.name = "oclr-tiny"
    config.model.channels = (4, 8, 16)
    config.model.heads = 2
    config.model.feedforward = 32
    config.model.encoder_layers = 1
    config.model.decoder_layers = 1
    # As much shorter as the variants before it say, so that T = 15 stays half of T = 30.
    config.model.frames = max(2, config.model.frames * 4 // 30)
    config.model.height = 32
    config.model.width = 48
    config.data.train = "tiny"
    config.data.validation = "tiny"
    config.batch_size = 2
    config.steps = 60
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 5
    config.log_every = 5
    config.evaluate_every = 30
    config.validation_clips = 2
    config.checkpoint_every = 30


def _ours_a(config: ConfigDict) -> None:
    """Table E6, A: one object, exact flow, image backgrounds moved by homographies.

    python launch/train.py --config configs/oclr_flow.py:ours_a --workdir workdirs/ours_a
    Cost: the paper's training.
    """
    config.name = "oclr-ours-a"
    config.experiment = "ours_a"
    config.data.train = "single_homography"
    config.data.validation = "syn_single"
    config.data.flow = "exact"


def _ours_b(config: ConfigDict) -> None:
    """Table E6, B: as A, with estimated flow.

    python launch/train.py --config configs/oclr_flow.py:ours_b --workdir workdirs/ours_b
    Cost: the paper's training.
    """
    _ours_a(config)
    config.name = "oclr-ours-b"
    config.experiment = "ours_b"
    config.data.flow = "estimated"


def _ours_c(config: ConfigDict) -> None:
    """Table E6, C: as B, with video backgrounds besides; the setting of the whole dataset.

    python launch/train.py --config configs/oclr_flow.py:ours_c --workdir workdirs/ours_c
    Cost: the paper's training.
    """
    _ours_b(config)
    config.name = "oclr-ours-c"
    config.experiment = "ours_c"
    config.data.train = "single_both"


def _ours_d(config: ConfigDict) -> None:
    """Table E7, D (table 1, A): without instance norm.

    python launch/train.py --config configs/oclr_flow.py:ours_d --workdir workdirs/ours_d
    Cost: 0.997 of the paper's training.
    """
    config.name = "oclr-ours-d"
    config.experiment = "ours_d"
    config.model.instance_norm = False


def _ours_e(config: ConfigDict) -> None:
    """Table E7, E (not in table 1): without Hungarian matching, query i learns layer i.

    python launch/train.py --config configs/oclr_flow.py:ours_e --workdir workdirs/ours_e
    Cost: the paper's training.
    """
    config.name = "oclr-ours-e"
    config.experiment = "ours_e"
    config.loss.matching = False


def _ours_f(config: ConfigDict) -> None:
    """Table E7, F (table 1, B): the model learns from modal masks alone.

    python launch/train.py --config configs/oclr_flow.py:ours_f --workdir workdirs/ours_f
    Cost: the paper's training.
    """
    config.name = "oclr-ours-f"
    config.experiment = "ours_f"
    config.loss.supervision = "modal"


def _ours_g(config: ConfigDict) -> None:
    """Table E7, G (table 1, C), and with several seeds table E8: the paper's model itself.

    python launch/train.py --config configs/oclr_flow.py:ours_g --workdir workdirs/ours_g
    For table E8 besides: --config.seed=1 --workdir workdirs/ours_g_seed1, and so on.
    Cost: the paper's training, for each seed.
    """
    config.name = "oclr-ours-g"
    config.experiment = "ours_g"


def _ours_h(config: ConfigDict) -> None:
    """Table E7, H (table 1, D): clips of half as many frames, T = 15.

    python launch/train.py --config configs/oclr_flow.py:ours_h --workdir workdirs/ours_h
    Cost: 0.49 of the paper's training.
    """
    config.name = "oclr-ours-h"
    config.experiment = "ours_h"
    config.model.frames //= 2


def _ours_i(config: ConfigDict) -> None:
    """Table E7, I (table 1, E): without the boundary loss.

    python launch/train.py --config configs/oclr_flow.py:ours_i --workdir workdirs/ours_i
    Cost: the paper's training.
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

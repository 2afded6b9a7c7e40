"""Training of the OCLR flow model: the paper's settings, and variants that change a few of them.

`configs/oclr_flow.py` alone is the paper's; `configs/oclr_flow.py:small` or `:released,tiny`
applies variants from left to right.
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
    model.compute_dtype = "auto"  # bfloat16 on GPU and TPU, float32 on CPU; or one of the two
    model.remat = False  # recompute blocks in the backward pass to save memory
    config.init_weights = ""  # safetensors file or workdir to start from; empty: random parameters

    # Data.
    data = config.data = ConfigDict()
    data.dir = "data"  # where launch/generate.py wrote the dataset
    data.train = "syn_train"  # dataset config to train on
    data.validation = "syn_val"  # dataset config to evaluate on
    data.flow = "estimated"  # what the model learns from: "estimated" or "exact" flow
    data.online = False  # render scenes of `train` without end, instead of reading it from `dir`
    data.images = ""  # online: folder of textures; empty: procedural
    data.silhouettes = ""  # online: folder of annotations; empty: procedural
    data.videos = ""  # online: folder of background videos; empty: procedural
    data.workers = 0  # worker processes of the loader; 0 loads in this process

    # Loss; the cross-entropy has weight 1.
    loss = config.loss = ConfigDict()
    loss.boundary = 0.2  # cross-entropy in the band around outlines
    loss.order = 0.05  # ranking of layers that overlap
    loss.modal = 0.0  # cross-entropy of the modal masks; not in the paper
    loss.query = 0.0  # cross-entropy of the queries' fit to the tokens; not in the paper

    # Optimisation.
    config.batch_size = 2  # clips per step, over all devices of all processes
    config.accumulate = 1  # parts of a batch that go through a device one after the other
    config.parallel = "jit"  # how a step runs on several devices: "jit" or "pmap"
    config.steps = 600_000  # length of the training
    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 5e-5  # Adam, after the warm-up
    optimizer.warmup_steps = 40_000  # linear, from 0
    optimizer.decay = "halving"  # "halving", or "cosine" to final_fraction over the training
    optimizer.halve_every = 80_000  # steps between halvings, counted from step 0
    optimizer.max_halvings = 9  # then the rate stays
    optimizer.final_fraction = 0.01  # of the rate, where the cosine ends
    optimizer.clip_value = 5.0  # every component of the gradient is clipped to [-5, 5]
    optimizer.unet_factor = 1.0  # rate of the U-Net over that of the transformer
    config.ema_decay = 0.0  # moving average of parameters, evaluated and exported; 0: none

    # What is written, and how often, in steps.
    config.log_every = 50  # scalars
    config.evaluate_every = 5_000  # validation, image strip, curves and exported weights
    config.validation_clips = 0  # at most so many validation clips; 0: all
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

    The shipped weights are 2,500 steps of this and 2,800 more on batches of 6 clips of 4 frames,
    with a larger weight of the query and the order term; their card holds both commands.
    """
    config.name = "oclr-small"
    config.model.channels = (16, 32, 64, 128, 256)
    config.model.frames = 8
    config.model.height = 64
    config.model.width = 112
    config.model.dropout = 0.0
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
    config.model.frames = 4
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
    """Table E6, A: one object, exact flow, image backgrounds moved by homographies."""
    config.name = "oclr-ours-a"
    config.data.train = "single_homography"
    config.data.validation = "syn_single"
    config.data.flow = "exact"


def _ours_b(config: ConfigDict) -> None:
    """Table E6, B: as A, with estimated flow."""
    _ours_a(config)
    config.name = "oclr-ours-b"
    config.data.flow = "estimated"


def _ours_c(config: ConfigDict) -> None:
    """Table E6, C: as B, with video backgrounds besides; the setting of the whole dataset."""
    _ours_b(config)
    config.name = "oclr-ours-c"
    config.data.train = "single_both"


VARIANTS = {
    "released": _released,
    "small": _small,
    "tiny": _tiny,
    "ours_a": _ours_a,
    "ours_b": _ours_b,
    "ours_c": _ours_c,
}

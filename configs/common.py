"""What every training configuration has: the fields of the training loop, with their defaults.

A configuration calls `base_config`, adds the fields of its task (`model`, `loss`, more of `data`),
and changes defaults. Its variants are functions that change a few fields; `apply_variants` applies
those that are named on the command line.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict


def base_config() -> ConfigDict:
    """The fields that the training loop reads."""
    config = ConfigDict()
    config.name = ""  # name of the exported weights
    config.task = ""  # see oclr_jax/train/tasks
    config.seed = 0  # of parameters, dropout and the order of the data
    config.init_weights = ""  # weights file or workdir to start from; empty: random parameters

    # Data.
    data = config.data = ConfigDict()
    data.dir = "data"  # where launch/generate.py wrote the datasets
    data.train = ""  # dataset config to train on
    data.validation = ""  # dataset config to evaluate on
    data.workers = 0  # worker processes of the loader; 0: load in this process

    # Optimization.
    config.batch_size = 1  # examples per step, over all devices of all processes
    config.accumulate = 1  # parts of a batch that go through a device one after the other
    config.parallel = "jit"  # how a step runs on several devices: "jit" or "pmap"
    # Unit of the lengths below: "steps", or "samples" (examples, whatever the batch size). Lengths
    # are steps, warmup_steps, halve_every, log_every, evaluate_every and checkpoint_every.
    config.length_unit = "steps"
    config.steps = 1  # length of the training
    optimizer = config.optimizer = ConfigDict()
    optimizer.learning_rate = 1e-4  # Adam, after the warm-up
    optimizer.warmup_steps = 0  # linear, from 0
    optimizer.decay = "halving"  # or "cosine" or "linear" to final_fraction over the training
    optimizer.halve_every = 80_000  # steps between halvings, counted from step 0
    optimizer.max_halvings = 9  # the learning rate stays constant after these
    optimizer.final_fraction = 0.01  # of the learning rate, where cosine and linear decay end
    optimizer.clip_value = 5.0  # bound on every component of the gradient
    optimizer.clip_norm = 0.0  # bound on the global norm of the gradient; 0: none
    optimizer.weight_decay = 0.0  # decoupled, as in AdamW
    # (pattern, factor) pairs: relative learning rate of the parameters whose path, joined by "/",
    # begins with a match of the regular expression. The first match counts; factor 0 freezes.
    optimizer.groups = ()
    config.ema_decay = 0.0  # moving average of parameters, evaluated and exported; 0: none

    # Output.
    config.log_every = 50  # steps between rows of metrics
    config.evaluate_every = 5_000  # steps between evaluations, which write report and weights
    config.validation_clips = 0  # number of validation examples; 0: all
    config.strips = (0, 1, 2, 5)  # validation examples that are drawn, by number from 0
    config.checkpoint_every = 1_000  # steps between checkpoints
    config.keep_checkpoints = 3  # number of newest checkpoints to keep, at least 1
    config.keep_best = 1  # number of best checkpoints to keep too, written at evaluations
    config.on_nonfinite = "stop"  # loss or gradient not finite: "stop", or "skip" the step
    config.max_skips = 10  # number of steps that may be skipped in a row
    config.accept_changes = False  # continue in a workdir that began with other settings
    config.export_dtype = "float16"  # of the exported weights
    return config


def add_corruption(config: ConfigDict) -> None:
    """Adds the corruption of predicted masks: the fields of `oclr_jax.ops.corruption.Corruption`.

    Probabilities are for each object of a clip; each corruption lasts for a run of frames.
    """
    corruption = config.corruption = ConfigDict()
    corruption.truth = 0.3  # the true masks are corrupted instead of the predicted ones
    corruption.missing = 0.4  # a part of the mask is removed
    corruption.foreign = 0.3  # a part of another object is added
    corruption.blob = 0.3  # a disk beside the object is added
    corruption.shifted = 0.2  # masks of earlier or later frames
    corruption.empty = 0.2  # no mask
    corruption.lost = 0.1  # no object of the clip has a mask
    corruption.longest = 0.5  # of a run, as a fraction of the clip
    corruption.max_shift = 3  # frames


def small_schedule(config: ConfigDict) -> None:
    """The data and the schedule of `:small` of the baselines."""
    config.data.train = "syn_small"
    config.data.validation = "syn_small"
    config.steps = 3_000
    config.log_every = 20
    config.evaluate_every = 250
    config.checkpoint_every = 250


def tiny_schedule(config: ConfigDict) -> None:
    """The data and the schedule of `:tiny`, seconds of training."""
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


def refinement_small(config: ConfigDict) -> None:
    """The data and the schedule of `:small` of selector and corrector, all but its length."""
    config.model.dropout = 0.0
    config.data.train = "syn_small"
    config.data.validation = "syn_small"
    config.data.frames = 10
    config.data.stride = 2
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 200
    config.optimizer.decay = "cosine"
    config.ema_decay = 0.998
    config.log_every = 20
    config.evaluate_every = 500
    config.checkpoint_every = 250


def refinement_tiny(config: ConfigDict) -> None:
    """The smallest selector and corrector, trained for seconds."""
    config.model.channels = (4, 4, 8)
    config.model.layers = 1
    config.model.heads = 2
    config.model.feedforward = 16
    config.model.feature_channels = 8
    config.model.height = 32
    config.model.width = 48
    config.data.frames = 4
    tiny_schedule(config)


def apply_variants(
    config: ConfigDict, names: str, variants: Mapping[str, Callable[[ConfigDict], None]]
) -> ConfigDict:
    """Applies variants by name, comma separated, from left to right; returns the configuration."""
    for name in filter(None, names.split(",")):
        if name not in variants:
            raise ValueError(f"unknown variant {name!r}; choose from {', '.join(variants)}")
        variants[name](config)
    return config

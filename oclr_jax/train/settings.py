"""What a training is set to: lengths in steps, and the same settings in every run of it."""

import json

from etils import epath
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.train.devices import say
from oclr_jax.train.record.journal import read_rows

# What may change between two runs of a training: it decides how long it runs, what it writes and
# with what it is computed, and not what it learns from a step.
FREE = {
    "name",
    "steps",
    "log_every",
    "evaluate_every",
    "validation_clips",
    "strips",
    "experiment",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "export_dtype",
    "on_nonfinite",
    "max_skips",
    "accept_changes",
    "parallel",
    "accumulate",
    "model.compute_dtype",
    "model.remat",
    "data.dir",
    "data.validation",
    "data.workers",
}


# Lengths of a training; they may be given in samples instead of steps.
LENGTHS = (
    "steps",
    "optimizer.warmup_steps",
    "optimizer.halve_every",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
)


def in_steps(config: ConfigDict) -> ConfigDict:
    """The same training with every length in steps, rounded up, as `counted_in` says.

    With lengths in samples a training sees as much data, and slows down at the same places in it,
    whatever its batch size.

    Raises:
      UserError: `counted_in` is neither "steps" nor "samples".
    """
    if config.counted_in not in ("steps", "samples"):
        raise UserError(f"counted_in must be steps or samples, not {config.counted_in!r}.")
    config = ConfigDict(config.to_dict())
    if config.counted_in == "samples":
        values = flatten_dict(config.to_dict(), sep=".")
        steps = {name: -(-values[name] // config.batch_size) for name in LENGTHS if name in values}
        config.update_from_flattened_dict(steps)
        config.counted_in = "steps"
    return config


def check_settings(config: ConfigDict, path: epath.Path) -> None:
    """Compares a configuration with that in the file `path`, with which the training was begun.

    Fields that only one of the two has, as another version of the program wrote it, do not count.

    Raises:
      UserError: they differ in what the result depends on, and `accept_changes` is not set.
    """
    if not path.exists():
        return
    try:
        before = flatten_dict(json.loads(path.read_text()), sep=".")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}), so nobody knows whether the training was begun with "
            "other settings; remove it to go on with those given."
        ) from error
    now = flatten_dict(json.loads(config.to_json_best_effort()), sep=".")
    changed = sorted(n for n in before.keys() & now.keys() - FREE if before[n] != now[n])
    if not changed:
        return
    changes = ", ".join(f"{name} was {before[name]!r} and is {now[name]!r}" for name in changed)
    what = f"The training in {path.parent} was begun with other settings ({changes})"
    if not config.accept_changes:
        raise UserError(
            f"{what}; give them as they were, or name a new workdir, or go on with the new ones by "
            "--config.accept_changes."
        )
    say(f"{what}; it goes on with the new ones.")


def check_no_states_lost(workdir: epath.Path) -> None:
    """For a workdir without states: raises UserError where a training had left some in it.

    A state is written at the latest when the next one is due, so of a training that came further
    there must be one.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    steps = max((row["step"] for row in read_rows(workdir / "metrics.jsonl")), default=0)
    if steps > 2 * json.loads(path.read_text())["checkpoint_every"]:
        raise UserError(
            f"The training in {workdir} came to step {steps}, but its states are gone; put a copy "
            "of one back, or name a new workdir."
        )


def keep_settings(config: ConfigDict, path: epath.Path) -> None:
    """Writes a configuration to `path` for the next run, whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(config.to_json_best_effort(indent=2))

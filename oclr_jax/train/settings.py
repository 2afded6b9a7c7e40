"""Checks of a training's settings, and the same settings in every run of a training."""

import json
from typing import Any

from etils import epath
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.train.processes import print_once
from oclr_jax.train.record.journal import read_rows

# Settings that may differ between two runs of a training: they change how long it runs, what it
# writes and how it is computed, but not what it learns from a step.
RESUMABLE_FIELDS = frozenset(
    {
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
)

# Lengths of a training, which may be given in samples instead of steps.
LENGTHS = (
    "steps",
    "optimizer.warmup_steps",
    "optimizer.halve_every",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
)

# The least value of a setting.
_MINIMA = {
    "steps": 1,
    "log_every": 1,
    "evaluate_every": 1,
    "checkpoint_every": 1,
    "keep_checkpoints": 1,
    "keep_best": 0,
    "validation_clips": 0,
    "max_skips": 0,
}


def check_values(config: ConfigDict) -> None:
    """Raises UserError where a setting of the loop has a value that makes no sense."""
    for name, least in _MINIMA.items():
        if config[name] < least:
            raise UserError(f"{name} is {config[name]}; it must be at least {least}.")
    if not 0 <= config.ema_decay < 1:
        raise UserError(f"ema_decay is {config.ema_decay}; it must be at least 0 and less than 1.")


def lengths_in_steps(config: ConfigDict) -> ConfigDict:
    """The same configuration with every length in steps, rounded up.

    With lengths in samples, a training sees as much data and follows the same schedule over it,
    whatever its batch size.

    Raises:
      UserError: `length_unit` is neither "steps" nor "samples".
    """
    if config.length_unit not in ("steps", "samples"):
        raise UserError(f"length_unit must be steps or samples, not {config.length_unit!r}.")
    config = ConfigDict(config.to_dict())
    if config.length_unit == "samples":
        values = flatten_dict(config.to_dict(), sep=".")
        steps = {name: -(-values[name] // config.batch_size) for name in LENGTHS if name in values}
        config.update_from_flattened_dict(steps)
        config.length_unit = "steps"
    return config


def check_unchanged(config: ConfigDict, path: epath.Path) -> None:
    """Compares a configuration with the one in the file `path`, which the training began with.

    Fields that only one of them has are ignored.

    Raises:
      UserError: they differ in a field that changes the result, and `accept_changes` is not set; or
        the file is damaged.
    """
    if not path.exists():
        return
    before = _read_settings(path)
    now = flatten_dict(json.loads(config.to_json_best_effort()), sep=".")
    fields = before.keys() & now.keys() - RESUMABLE_FIELDS
    changed = sorted(name for name in fields if before[name] != now[name])
    if not changed:
        return
    changes = ", ".join(f"{name} was {before[name]!r} and is {now[name]!r}" for name in changed)
    what = f"The training in {path.parent} began with other settings ({changes})"
    if not config.accept_changes:
        raise UserError(
            f"{what}; restore them, choose a new workdir, or continue with the new ones by "
            "--config.accept_changes."
        )
    print_once(f"{what}; it continues with the new ones.")


def check_no_checkpoints_lost(workdir: epath.Path) -> None:
    """Raises UserError for a workdir without checkpoints in which a training must have left some.

    A checkpoint is complete at the latest when the next one is due, so a training that did more
    steps than that has left one.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    every = _read_settings(path).get("checkpoint_every")
    if not isinstance(every, int):
        raise _damaged(path, "checkpoint_every is missing")
    steps = max((row["step"] for row in read_rows(workdir)), default=0)
    if steps > 2 * every:
        raise UserError(
            f"The training in {workdir} reached step {steps}, but its checkpoints are gone; put a "
            "copy of one back, or choose a new workdir."
        )


def write_settings(config: ConfigDict, path: epath.Path) -> None:
    """Writes a configuration to `path` for the next run, completely or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(config.to_json_best_effort(indent=2))


def _read_settings(path: epath.Path) -> dict[str, Any]:
    """The settings that `write_settings` wrote, by dotted names; UserError for a damaged file."""
    try:
        return flatten_dict(dict(json.loads(path.read_text())), sep=".")
    except (ValueError, TypeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: epath.Path, reason: object) -> UserError:
    return UserError(
        f"{path} is damaged ({reason}), so the settings that the training began with are not "
        "known; remove it to continue with those given now."
    )

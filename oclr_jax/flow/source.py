"""Opens the source of optical flow that an option names: an estimator or a folder of flow files.

Every command takes the same option:

  dis, dis:PRESET              DIS of OpenCV; presets are ultrafast, fast, medium, fine
  dis-sharp, dis-sharp:PRESET  DIS with motion boundaries that follow those of colour
  raft, raft-small             RAFT or RAFT-small with the released weights, from the cache folder
  raft:WEIGHTS                 RAFT with these weights: a file, or a name in the cache folder
  raft-small:WEIGHTS           the same, and refused if the weights are not those of RAFT-small
  any other text               a folder of flow files

RAFT is imported, and jax with it, only where it is asked for.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oclr_jax.errors import UserError
from oclr_jax.flow.dis import DIS, SharpDIS
from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.folder import FlowFolder
from oclr_jax.video.clip import Clip
from oclr_jax.weights.registry import find_weights

ESTIMATORS = ("dis", "dis-sharp", "raft", "raft-small")
_DIS = {"dis": DIS, "dis-sharp": SharpDIS}
GRAMMAR = "dis[:PRESET], dis-sharp[:PRESET], raft[:WEIGHTS] or raft-small[:WEIGHTS]"

# The settings in which flow of training and use is compared.
_COMPARED = ("estimator", "weights", "preset", "height", "width")

Settings = Mapping[str, Any]


def open_estimator(
    option: str,
    defaults: Mapping[str, Settings] | None = None,
    precision: str | None = None,
) -> FlowEstimator:
    """The flow estimator that an option names; see the module's docstring for its grammar.

    Args:
      option: the text of the option.
      defaults: by estimator ("dis", "raft"), the settings that the option leaves open.
      precision: of RAFT, "float32" or "bfloat16"; None for float32 on a CPU, else bfloat16.

    Raises:
      UserError: the option names no estimator, or one that cannot be opened.
    """
    name, colon, argument = option.partition(":")
    if name not in ESTIMATORS:
        raise UserError(f"There is no flow estimator {option!r}; choose {GRAMMAR}.")
    if colon and not argument:
        what = "a preset" if name in _DIS else "the weights, a file or a name in the cache folder"
        raise UserError(f"The flow option {option!r} ends after the colon; add {what}.")
    settings = {**(defaults or {}).get(_kind(name), {}), "estimator": name}
    if argument:
        settings["preset" if name in _DIS else "weights"] = argument
    elif name == "raft-small":
        settings.pop("weights", None)  # those of RAFT, where a model was trained with it
    return from_settings(_with_precision(settings, precision))


def from_settings(settings: Settings) -> FlowEstimator:
    """Builds an estimator from its `settings()`; fields left out take their defaults.

    Raises:
      UserError: for an unknown estimator, field or value, and for weights that are missing.
    """
    fields = dict(settings)
    name = fields.pop("estimator", None)
    if name not in ESTIMATORS:
        raise UserError(f"There is no flow estimator {name!r}; choose {GRAMMAR}.")
    if name in _DIS:
        build = _DIS[name]
    else:
        from oclr_jax.flow.raft import open_raft

        fields["estimator"], build = name, open_raft
    try:
        return build(**fields)
    except TypeError as error:
        raise UserError(
            f"The settings {dict(settings)} do not fit the flow estimator {name}: {error}."
        ) from error


def open_source(
    option: str | os.PathLike | None,
    trained_on: Settings,
    clip: Clip,
    gaps: Sequence[int],
    precision: str | None = None,
) -> FlowEstimator | FlowFolder:
    """Opens the source of a clip's flow for a model.

    Args:
      option: an estimator or a folder of flow files; None for the estimator in `trained_on`.
      trained_on: settings of the estimator that the model was trained with. They also hold where
        the option names the same estimator and leaves them open.
      clip: whose flow is wanted; a folder is checked against its frames.
      gaps: of the flow, in frames.
      precision: as in `open_estimator`.

    Raises:
      UserError: the option is neither an estimator nor a folder that matches the clip.
    """
    estimator = model_estimator(option, trained_on, precision)
    if estimator is None:
        return FlowFolder(option, clip.stems, gaps, sequence=clip.name)
    return estimator


def model_estimator(
    option: str | os.PathLike | None, trained_on: Settings, precision: str | None = None
) -> FlowEstimator | None:
    """The estimator as in `open_source`; None where the option is a folder."""
    if option is None:
        _check_weights_present(trained_on)
        return from_settings(_with_precision(trained_on, precision))
    option = os.fspath(option)
    if option.partition(":")[0] in ESTIMATORS:
        trained = {name: value for name, value in trained_on.items() if name != "estimator"}
        return open_estimator(option, {_kind(trained_on.get("estimator", "")): trained}, precision)
    if not os.path.isdir(option):
        problem = "is a file, not a folder" if Path(option).is_file() else "does not exist"
        raise UserError(
            f"The flow folder {option!r} {problem}; give a folder of flow files or an estimator: "
            f"{GRAMMAR}."
        )
    return None


def other_flow(trained_on: Settings, used: Settings) -> str | None:
    """Describes how the flow in use differs from that of the training; None if it does not.

    Settings that only one side has are not compared, nor are those that change the flow little:
    RAFT's iterations, size and precision. Folders of flow do not tell their estimator.
    """
    if used.get("estimator") not in ESTIMATORS or not trained_on.get("estimator"):
        return None
    ours, theirs = _compared(trained_on), _compared(used)
    if all(ours[name] == theirs[name] for name in ours.keys() & theirs.keys()):
        return None
    return f"trained on {_described(ours)} flow and are used with {_described(theirs)} flow"


def warn_of_other_flow(weights: str, trained_on: Settings, used: Settings) -> None:
    """Prints one line to standard error if the flow in use is not that of the training."""
    difference = other_flow(trained_on, used)
    if difference:
        print(
            f"warning: the weights {weights} were {difference}; expect less accurate masks.",
            file=sys.stderr,
        )


def _kind(estimator: str) -> str:
    """The estimator whose settings hold for this one too."""
    return "dis" if estimator in _DIS else "raft" if estimator in ESTIMATORS else ""


def _compared(settings: Settings) -> dict[str, Any]:
    values = {name: settings[name] for name in _COMPARED if name in settings}
    if "weights" in values:
        values["weights"] = Path(values["weights"]).stem
    return values


def _described(settings: Mapping[str, Any]) -> str:
    details = [str(settings[name]) for name in ("weights", "preset") if name in settings]
    if "height" in settings and "width" in settings:
        details.append(f"{settings['height']}x{settings['width']}")
    name = settings["estimator"].upper()
    return f"{name} ({', '.join(details)})" if details else name


def _with_precision(settings: Settings, precision: str | None) -> Settings:
    """The settings for this machine: the precision of another one is not taken over."""
    settings = {name: value for name, value in settings.items() if name != "precision"}
    if precision is not None and settings.get("estimator") not in _DIS:
        settings["precision"] = precision
    return settings


def _check_weights_present(trained_on: Settings) -> None:
    """Raises UserError if a model's own estimator is RAFT, and its weights are missing."""
    if trained_on.get("estimator") == "raft" and "weights" in trained_on:
        try:
            find_weights(trained_on["weights"])
        except UserError as error:
            raise UserError(
                f"{str(error).removesuffix('.')}; the model was trained on the flow of RAFT with "
                "these weights, and --flow dis runs it on DIS flow, with less accurate masks."
            ) from error

"""Options that several commands share."""

import argparse
from collections.abc import Callable

from oclr_jax.errors import UserError
from oclr_jax.types import MODELS, PRECISIONS

# As `flow.source` takes them; not imported from there, so that the help does not load OpenCV.
ESTIMATORS = "dis[:PRESET], raft[:WEIGHTS] or raft-small[:WEIGHTS]"


def add_command(commands, name: str, about: str, run: Callable) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(run=run)
    return parser


def not_empty(name: str) -> Callable[[str], str]:
    """Type of an argument that must not be empty, as an unset shell variable leaves it."""

    def check(text: str) -> str:
        if not text:
            raise UserError(f"{name} is empty; give a value or leave it out.")
        return text

    return check


def add_video(parser: argparse.ArgumentParser, output: str) -> None:
    parser.add_argument(
        "input", metavar="INPUT", type=not_empty("INPUT"), help="video file, or folder of frames"
    )
    parser.add_argument("output", metavar="OUTPUT", type=not_empty("OUTPUT"), help=output)
    parser.add_argument(
        "--keep-damaged",
        action="store_true",
        help="use the intact frames of a damaged video file instead of refusing it",
    )


def add_result(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "result", metavar="RESULT", type=not_empty("RESULT"), help="folder that `segment` wrote"
    )
    parser.add_argument(
        "--video",
        metavar="VIDEO",
        type=not_empty("--video"),
        help="video of the results, where it is no longer in its place",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        choices=MODELS,
        default=MODELS[0],
        help="model of moving objects: %(choices)s; all but oclr are baselines, and geometric has "
        "no weights (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE",
        type=not_empty("--weights"),
        help="weights of the model (default: those of oclr that come with the package)",
    )
    parser.add_argument(
        "--flow",
        metavar="ESTIMATOR|FOLDER",
        type=not_empty("--flow"),
        help=f"{ESTIMATORS}, or a folder of flow files (default: the estimator of the weights)",
    )
    parser.add_argument(
        "--refine",
        metavar="NAMES",
        type=not_empty("--refine"),
        help="refiners of the masks, separated by commas, applied in order; none: the masks as the "
        "flow model predicts them (default: self, which learns the objects' appearance)",
    )
    parser.add_argument(
        "--passes",
        type=int,
        choices=(1, 2, 4),
        help="run the model on the video, mirrored (2), and also reversed in time (4), and average "
        "its masks (default: as the weights say; 2 for those of the package, 1 for released ones)",
    )
    add_refine_weights(parser)
    add_precision(parser)
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def add_refine_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refine-weights",
        metavar="DIR",
        type=not_empty("--refine-weights"),
        help="folder with a file of weights for each of selector and corrector, for the refiners "
        "select, correct and appearance (default: those in the package or the cache folder)",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="numeric precision of OCLR and RAFT (default: float32 on a CPU, bfloat16 on GPU and "
        "TPU)",
    )


def refiner_names(option: str | None) -> list[str] | None:
    """None for the default refiners, an empty list for no refinement."""
    return None if option is None else [] if option == "none" else option.split(",")


def names(option: str | None) -> list[str]:
    return option.split(",") if option else []

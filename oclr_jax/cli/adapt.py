"""`oclr adapt`."""

import argparse
import dataclasses

from oclr_jax.adapt.settings import LABELS, STAGES, AdaptSettings
from oclr_jax.cli.options import (
    ESTIMATORS,
    add_command,
    add_precision,
    add_refine_weights,
    not_empty,
)
from oclr_jax.errors import UserError


def add(commands) -> None:
    about = "adapt the models to your own videos, without annotations"
    parser = add_command(commands, "adapt", about, run)
    parser.add_argument(
        "videos",
        metavar="VIDEO",
        nargs="+",
        type=not_empty("VIDEO"),
        help="video file, folder of frames, or benchmark built as a TFDS dataset",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        required=True,
        type=not_empty("--output"),
        help="folder for the weights, report.html and adapt.json; the same command goes on there "
        "after a stop",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE",
        type=not_empty("--weights"),
        help="weights to start from (default: those that come with the package)",
    )
    parser.add_argument(
        "--refine",
        choices=LABELS,
        default="self",
        help="refiner of the masks that are learned from (%(default)s)",
    )
    add_refine_weights(parser)
    parser.add_argument(
        "--stages",
        metavar="NAME[,NAME]",
        help=f"what is trained, of {','.join(STAGES)} (default: flow, with --refine appearance "
        "both)",
    )
    parser.add_argument(
        "--no-reconstruction",
        action="store_true",
        help="train the corrector without its loss terms of the feature reconstruction",
    )
    parser.add_argument(
        "--flow",
        metavar="ESTIMATOR",
        type=not_empty("--flow"),
        help=f"{ESTIMATORS} (default: the estimator of the weights)",
    )
    parser.add_argument(
        "--rounds", type=int, default=1, help="labels and training, so many times (%(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, help="training steps of the flow model in each round (default: 320)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="MINUTES",
        help="start no further training after so much time, stops included (default: no limit)",
    )
    add_precision(parser)
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def run(options: argparse.Namespace) -> None:
    if options.rounds < 1:
        raise UserError("--rounds must be at least 1.")
    if options.steps is not None and options.steps < 1:
        raise UserError("--steps must be at least 1.")
    if options.budget is not None and not options.budget > 0:
        raise UserError("--budget must be above 0 minutes.")
    if options.refine_weights and options.refine != "appearance":
        raise UserError("--refine-weights needs --refine appearance.")
    if options.no_reconstruction and "corrector" not in _stages(options):
        raise UserError("--no-reconstruction needs the stage corrector.")
    settings = AdaptSettings(
        stages=_stages(options),
        labels=options.refine,
        rounds=options.rounds,
        reconstruction=not options.no_reconstruction,
    )
    if options.steps is not None:
        # Parts of equal length, rounded up.
        parts = -(-options.steps // settings.check_every)
        part = -(-options.steps // parts)
        settings = dataclasses.replace(settings, steps=parts * part, check_every=part)
    from oclr_jax.adapt.report import verdicts
    from oclr_jax.adapt.run import adapt
    from oclr_jax.train.processes import is_lead, join_processes

    join_processes()
    record = adapt(
        options.videos,
        options.output,
        weights=options.weights,
        refine_weights=options.refine_weights,
        flow=options.flow,
        settings=settings,
        budget=options.budget,
        precision=options.precision,
        quiet=options.quiet,
    )
    if not is_lead():
        return
    print(*verdicts(record), sep="\n")
    frames = sum(video["frames"] for video in record["videos"])
    parts = ", ".join(f"{name} {time / frames:.2f}" for name, time in record["seconds"].items())
    print(f"Seconds per frame: {parts}; see {options.output}.")


def _stages(options: argparse.Namespace) -> tuple[str, ...]:
    if options.stages is None:
        return STAGES if options.refine == "appearance" else ("flow",)
    return tuple(options.stages.split(","))

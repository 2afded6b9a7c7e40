"""`oclr adapt`."""

import argparse
import dataclasses

from oclr_jax.cli.options import ESTIMATORS, add_command, add_precision, not_empty
from oclr_jax.errors import UserError


def add(commands) -> None:
    about = "adapt the flow model to your own videos, without annotations"
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
        help="folder for weights.safetensors, report.html and adapt.json; the same command goes on "
        "there after a stop",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE",
        type=not_empty("--weights"),
        help="weights to start from (default: those that come with the package)",
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
    parser.add_argument("--steps", type=int, help="training steps in each round (default: 160)")
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
    from oclr_jax.adapt.report import verdict_sentence
    from oclr_jax.adapt.run import adapt
    from oclr_jax.adapt.settings import AdaptSettings

    settings = AdaptSettings(rounds=options.rounds)
    if options.steps is not None:
        # Stages of equal length, rounded up.
        stages = -(-options.steps // settings.stage_steps)
        stage = -(-options.steps // stages)
        settings = dataclasses.replace(settings, steps=stages * stage, stage_steps=stage)
    record = adapt(
        options.videos,
        options.output,
        weights=options.weights,
        flow=options.flow,
        settings=settings,
        budget=options.budget,
        precision=options.precision,
        quiet=options.quiet,
    )
    print(verdict_sentence(record))
    frames = sum(video["frames"] for video in record["videos"])
    parts = ", ".join(f"{name} {time / frames:.2f}" for name, time in record["seconds"].items())
    print(f"Seconds per frame: {parts}; see {options.output}.")

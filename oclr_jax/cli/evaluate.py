"""`oclr evaluate`."""

import argparse
from contextlib import nullcontext
from typing import Any

from oclr_jax.cli.options import add_command, add_model_options, names, not_empty, refiner_names
from oclr_jax.datasets.benchmarks import BENCHMARKS, PROTOCOLS, SYNTHETIC
from oclr_jax.errors import UserError
from oclr_jax.files import locked_output


def add(commands) -> None:
    about = "score a model, or masks on disk, on a benchmark"
    parser = add_command(commands, "evaluate", about, run)
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        choices=("folder", *BENCHMARKS, *SYNTHETIC),
        required=True,
        help="one of %(choices)s; folder: your own frames and annotations",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=not_empty("--data"),
        required=True,
        help="folder, zip file or TFDS build of the dataset",
    )
    parser.add_argument(
        "--protocol",
        metavar="NAMES",
        type=not_empty("--protocol"),
        help=f"comma-separated, of {', '.join(PROTOCOLS)} (default: those of the dataset)",
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=not_empty("--results"),
        help="score the masks in this folder instead of a model",
    )
    parser.add_argument("--gap", type=int, choices=(1, 2, 3), help="frame gap of the flow")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=not_empty("--output"),
        help="folder for scores, masks and report; an interrupted evaluation resumes there",
    )
    add_model_options(parser)


def run(options: argparse.Namespace) -> None:
    from oclr_jax.evaluate import format_table

    with locked_output(options.output) if options.output else nullcontext():
        report = _evaluation_report(options)
    print(format_table(report))


def _evaluation_report(options: argparse.Namespace) -> dict[str, Any]:
    from oclr_jax.evaluate import evaluate_dataset, evaluate_synthetic

    if options.dataset in SYNTHETIC and options.protocol in (None, "paper"):
        unused = options.results, options.flow, options.gap, options.refine, options.refine_weights
        if any(unused):
            raise UserError(
                f"On {options.dataset} the protocol paper scores the windows of a model with the "
                "flow of the dataset; leave out --results, --flow, --gap and --refine, or score "
                "tracks with --protocol sequence-oracle."
            )
        return evaluate_synthetic(
            options.dataset,
            options.data,
            options.weights,
            options.output,
            options.quiet,
            options.precision,
            options.passes,
            options.model,
        )
    return evaluate_dataset(
        options.dataset,
        options.data,
        weights=options.weights,
        flow=options.flow,
        gap=options.gap,
        results=options.results,
        refine=refiner_names(options.refine),
        protocols=names(options.protocol),
        output=options.output,
        quiet=options.quiet,
        precision=options.precision,
        passes=options.passes,
        refine_weights=options.refine_weights,
        model=options.model,
    )

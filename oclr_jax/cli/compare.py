"""`oclr compare`."""

import argparse

from oclr_jax.cli.options import add_command, not_empty


def add(commands) -> None:
    """Adds the command."""
    about = "set evaluations side by side on a page, with the frames in which they differ most"
    parser = add_command(commands, "compare", about, run)
    parser.add_argument(
        "runs",
        metavar="RUN",
        nargs="+",
        type=not_empty("RUN"),
        help="folders that `oclr evaluate --output` wrote, at least two",
    )
    parser.add_argument(
        "--data",
        metavar="DIR",
        type=not_empty("--data"),
        required=True,
        help="folder, zip file or TFDS build of the dataset",
    )
    parser.add_argument(
        "--output",
        metavar="FILE",
        default="comparison.html",
        type=not_empty("--output"),
        help="page to write (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Runs the command."""
    from oclr_jax.evaluate.comparison import compare_runs

    protocol = compare_runs(options.runs, options.data, options.output)
    print(f"{len(options.runs)} runs compared under {protocol}; see {options.output}.")

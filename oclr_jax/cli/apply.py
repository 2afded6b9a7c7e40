"""`oclr apply`."""

import argparse

from oclr_jax.cli.export import FORMATS
from oclr_jax.cli.options import add_command, add_result, names, not_empty


def add(commands) -> None:
    about = "write corrected results: replay the corrections that were made in the local page"
    parser = add_command(commands, "apply", about, run)
    add_result(parser)
    parser.add_argument("--no-overlay", action="store_true", help="do not write overlay.mp4")
    parser.add_argument(
        "--export",
        metavar="FORMATS",
        type=not_empty("--export"),
        help=f"also write the corrected results in these formats, of {FORMATS}",
    )
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def run(options: argparse.Namespace) -> None:
    from pathlib import Path

    from oclr_jax.corrections.apply import CORRECTED, apply_corrections

    record = apply_corrections(
        options.result,
        video=options.video,
        overlay=not options.no_overlay,
        export=names(options.export),
        quiet=options.quiet,
    )
    if not options.quiet:
        made, objects = len(record["settings"]["corrections"]), len(record["objects"])
        print(
            f"Corrections made: {made}; objects now: {objects}; see "
            f"{Path(options.result) / CORRECTED}."
        )

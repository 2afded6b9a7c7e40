"""`oclr segment`."""

import argparse

from oclr_jax.cli.export import FORMATS
from oclr_jax.cli.options import (
    add_command,
    add_model_options,
    add_video,
    names,
    not_empty,
    refiner_names,
)


def add(commands) -> None:
    about = "find, track and segment the moving objects of a video"
    parser = add_command(commands, "segment", about, run)
    add_video(parser, "folder for masks, amodal masks, objects.json and overlay.mp4")
    add_model_options(parser)
    parser.add_argument("--no-overlay", action="store_true", help="do not write overlay.mp4")
    parser.add_argument(
        "--export",
        metavar="FORMATS",
        type=not_empty("--export"),
        help=f"also write the result to OUTPUT/exports in these formats, of {FORMATS}",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results in OUTPUT")


def run(options: argparse.Namespace) -> None:
    from oclr_jax.pipeline import segment_to_folder

    record = segment_to_folder(
        options.input,
        options.output,
        weights=options.weights,
        flow=options.flow,
        refine=refiner_names(options.refine),
        overlay=not options.no_overlay,
        overwrite=options.overwrite,
        keep_damaged=options.keep_damaged,
        precision=options.precision,
        passes=options.passes,
        refine_weights=options.refine_weights,
        model=options.model,
        quiet=options.quiet,
        export=names(options.export),
    )
    if not record["video"]["moves"]:
        print(f"Nothing moves in {options.input}: the masks are empty.")
    elif not options.quiet:
        found, frames = len(record["objects"]), record["video"]["frames"]
        print(
            f"Moving objects found: {found}, in {frames} frames, computed in "
            f"{record['settings']['precision']}; see {options.output}."
        )

"""`oclr propagate`."""

import argparse

from oclr_jax.cli.options import add_command, not_empty
from oclr_jax.types import PRECISIONS


def add(commands) -> None:
    about = "carry the mask of the first frame to all frames of a video"
    parser = add_command(commands, "propagate", about, run)
    parser.add_argument(
        "input", metavar="INPUT", type=not_empty("INPUT"), help="video file, or folder of frames"
    )
    parser.add_argument(
        "mask",
        metavar="MASK.png",
        type=not_empty("MASK.png"),
        help="mask of the first frame: object ids (indexed or grey), or white on black",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=not_empty("OUTPUT"),
        help="folder for masks, objects.json and overlay.mp4",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE",
        type=not_empty("--weights"),
        help="weights of the image features (default: DINO ViT-S/8, see `oclr weights`)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="numeric precision of the features (default: float32 on a CPU, else bfloat16)",
    )
    parser.add_argument("--no-overlay", action="store_true", help="do not write overlay.mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace results in OUTPUT")
    parser.add_argument(
        "--keep-damaged",
        action="store_true",
        help="use the intact frames of a damaged video file instead of refusing it",
    )
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def run(options: argparse.Namespace) -> None:
    from oclr_jax.propagate import propagate_to_folder

    propagate_to_folder(
        options.input,
        options.mask,
        options.output,
        weights=options.weights,
        overlay=not options.no_overlay,
        overwrite=options.overwrite,
        keep_damaged=options.keep_damaged,
        precision=options.precision,
        quiet=options.quiet,
    )

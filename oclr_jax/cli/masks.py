"""`oclr refine` and `oclr select`: masks of any program."""

import argparse

from oclr_jax.cli.options import add_command, add_refine_weights, names, not_empty


def add_refine(commands) -> None:
    about = "refine the masks of any program, given as a folder of indexed PNG files"
    parser = add_command(commands, "refine", about, _refine)
    _add_masks(parser)
    parser.add_argument(
        "output", metavar="OUTPUT", type=not_empty("OUTPUT"), help="folder for the refined masks"
    )
    parser.add_argument(
        "--refine",
        metavar="NAMES",
        type=not_empty("--refine"),
        required=True,
        help="refiners, separated by commas, applied in order",
    )
    add_refine_weights(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace results in OUTPUT")
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def add_select(commands) -> None:
    about = "score the masks of any program in every frame, and draw the best and worst ones"
    parser = add_command(commands, "select", about, _select)
    _add_masks(parser)
    parser.add_argument(
        "--sheet",
        metavar="FILE",
        default="selection.png",
        type=not_empty("--sheet"),
        help="picture of exemplars and error maps (default: %(default)s)",
    )
    add_refine_weights(parser)
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def _add_masks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="INPUT", type=not_empty("INPUT"), help="video file, or folder of frames"
    )
    parser.add_argument(
        "masks",
        metavar="MASKS",
        type=not_empty("MASKS"),
        help="folder with a PNG of object ids for each frame, 0 = background; a frame without a "
        "file has no objects",
    )


def _refine(options: argparse.Namespace) -> None:
    from oclr_jax.mask_folder import refine_masks

    count = refine_masks(
        options.input,
        options.masks,
        options.output,
        names(options.refine),
        refine_weights=options.refine_weights,
        overwrite=options.overwrite,
        quiet=options.quiet,
    )
    if not options.quiet:
        print(f"Masks of {count} objects refined; see {options.output}.")


def _select(options: argparse.Namespace) -> None:
    from oclr_jax.mask_folder import select_masks

    print(
        select_masks(
            options.input,
            options.masks,
            options.sheet,
            refine_weights=options.refine_weights,
            quiet=options.quiet,
        )
    )

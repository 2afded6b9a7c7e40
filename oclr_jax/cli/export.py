"""`oclr export` and `oclr inspect`: results for other programs, and for a look."""

import argparse

from oclr_jax.cli.options import add_command, names, not_empty

FORMATS = "coco, youtubevos, alpha, gif, npz"


def add_export(commands) -> None:
    about = "write results in the formats of other programs"
    parser = add_command(commands, "export", about, _export)
    parser.add_argument(
        "results",
        metavar="RESULT",
        nargs="+",
        type=not_empty("RESULT"),
        help="folder that `oclr segment` wrote; several for the formats coco and youtubevos",
    )
    parser.add_argument(
        "--to",
        metavar="FORMATS",
        type=not_empty("--to"),
        required=True,
        help=f"formats, separated by commas, of {FORMATS}",
    )
    parser.add_argument(
        "--video",
        metavar="VIDEO",
        type=not_empty("--video"),
        help="video that was segmented, where it has moved; alpha and gif show its frames",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=not_empty("--output"),
        help="folder for the files (default: exports in RESULT)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace earlier exports in these formats"
    )
    parser.add_argument(
        "--keep-damaged",
        action="store_true",
        help="the video is damaged, and its intact frames were segmented",
    )


def add_inspect(commands) -> None:
    about = "print a summary of a result: video, settings, objects, files"
    parser = add_command(commands, "inspect", about, _inspect)
    parser.add_argument(
        "result",
        metavar="RESULT",
        type=not_empty("RESULT"),
        help="folder that `oclr segment` wrote",
    )


def _export(options: argparse.Namespace) -> None:
    from oclr_jax.export import export_results

    written = export_results(
        options.results,
        names(options.to),
        options.output,
        video=options.video,
        overwrite=options.overwrite,
        keep_damaged=options.keep_damaged,
    )
    print("\n".join(str(path) for path in written))


def _inspect(options: argparse.Namespace) -> None:
    from oclr_jax.export import summarize

    print(summarize(options.result))

"""`oclr flow`."""

import argparse

from oclr_jax.cli.options import ESTIMATORS, add_command, add_precision, add_video, not_empty
from oclr_jax.errors import UserError


def add(commands) -> None:
    about = "estimate the optical flow of a video and write it to files that --flow reads"
    parser = add_command(commands, "flow", about, run)
    add_video(parser, "folder for Flows_gap1, Flows_gap-1, ...")
    parser.add_argument(
        "--flow",
        metavar="ESTIMATOR",
        default="dis",
        type=not_empty("--flow"),
        help=f"{ESTIMATORS}; weights are a safetensors or released .pth file, or its name in the "
        "cache folder (default: %(default)s)",
    )
    parser.add_argument(
        "--gaps",
        default="1,-1",
        help="frame gaps, comma-separated; write --gaps=-1,1 where the first is negative "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--format", choices=("flo", "kitti"), default="flo", help="file format (%(default)s)"
    )
    parser.add_argument(
        "--color", action="store_true", help="also write colour pictures to Colors_gap1, ..."
    )
    parser.add_argument(
        "--check", action="store_true", help="print the photometric error before and after warping"
    )
    add_precision(parser)
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def run(options: argparse.Namespace) -> None:
    from oclr_jax.flow.source import open_estimator
    from oclr_jax.flow.to_folder import flow_to_folder

    try:
        gaps = [int(gap) for gap in options.gaps.split(",")]
    except ValueError:
        raise UserError(
            f"--gaps takes whole numbers separated by commas, such as 1,-1, not {options.gaps!r}."
        ) from None
    # RAFT works on the frames at their own size.
    estimator = open_estimator(options.flow, {"raft": {"rows": None}}, options.precision)
    checks = flow_to_folder(
        options.input,
        options.output,
        estimator,
        gaps,
        format=options.format,
        color=options.color,
        check=options.check,
        keep_damaged=options.keep_damaged,
        quiet=options.quiet,
    )
    if "precision" in estimator.settings() and not options.quiet:
        print(f"RAFT flow, computed in {estimator.settings()['precision']}; see {options.output}.")
    for gap, before, after in checks:
        print(f"gap {gap}: mean absolute grey difference {before:.2f}, after warping {after:.2f}")

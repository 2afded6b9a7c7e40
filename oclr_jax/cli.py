"""The command `oclr`: segment, evaluate, flow, convert. Thin: what happens is in the library."""

import argparse
import os
import sys
from collections.abc import Sequence

import oclr_jax
from oclr_jax.datasets.benchmarks import BENCHMARKS, PROTOCOLS, SYNTHETIC
from oclr_jax.errors import UserError

# As `flow.source` takes them; not imported from there, so that the help does not load OpenCV.
_ESTIMATORS = "dis[:PRESET], raft[:WEIGHTS] or raft-small[:WEIGHTS]"
BAD_INPUT = 2
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status.

    0 done, 2 bad input (one sentence on standard error), 130 stopped by Ctrl-C.
    """
    options = build_parser().parse_args(arguments)
    _cache_compiled_programs()
    try:
        options.run(options)
    except UserError as error:
        print(f"oclr: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("oclr: stopped; nothing half-written was left.", file=sys.stderr)
        return INTERRUPTED
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The command line; argparse itself exits with status 2 where it does not fit."""
    parser = argparse.ArgumentParser("oclr", description=oclr_jax.__doc__)
    parser.add_argument("--version", action="version", version=f"oclr {oclr_jax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_segment(commands)
    _add_evaluate(commands)
    _add_flow(commands)
    _add_convert(commands)
    return parser


def _add_segment(commands) -> None:
    about = "find, track and segment what moves in a video"
    parser = commands.add_parser("segment", help=about, description=about)
    parser.add_argument("input", metavar="INPUT", help="video file or folder of jpg or png frames")
    parser.add_argument("output", metavar="OUTPUT", help="folder for masks, objects.json, overlay")
    _add_model_options(parser)
    parser.add_argument("--no-overlay", action="store_true", help="leave out overlay.mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace results in OUTPUT")
    parser.set_defaults(run=_segment)


def _add_evaluate(commands) -> None:
    about = "score a model or masks on a benchmark, by protocol"
    parser = commands.add_parser("evaluate", help=about, description=about)
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        choices=("folder", *BENCHMARKS, *SYNTHETIC),
        required=True,
        help="%(choices)s; folder: frames and annotations of your own",
    )
    parser.add_argument(
        "--data", metavar="DIR", required=True, help="the dataset's folder, zip file or TFDS build"
    )
    parser.add_argument(
        "--protocol",
        metavar="NAMES",
        help=f"separated by commas, of {', '.join(PROTOCOLS)} (default: those of the dataset)",
    )
    parser.add_argument("--results", metavar="DIR", help="score these masks, run no model")
    parser.add_argument("--gap", type=int, choices=(1, 2, 3), help="of the flow, in frames")
    parser.add_argument(
        "--output", metavar="DIR", help="keep figures, masks and report; goes on where it stopped"
    )
    _add_model_options(parser)
    parser.set_defaults(run=_evaluate)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", metavar="NAME|FILE", help="default: those of the package")
    parser.add_argument(
        "--flow",
        metavar="ESTIMATOR|FOLDER",
        help=f"{_ESTIMATORS}, or a folder of flow files (default: the estimator of the weights)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _add_flow(commands) -> None:
    about = "estimate the optical flow of a video and keep it as files, which --flow reads"
    parser = commands.add_parser("flow", help=about, description=about)
    parser.add_argument("input", metavar="INPUT", help="video file or folder of jpg or png frames")
    parser.add_argument("output", metavar="OUTPUT", help="folder for Flows_gap1, Flows_gap-1, ...")
    parser.add_argument(
        "--flow",
        metavar="ESTIMATOR",
        default="dis",
        help=f"{_ESTIMATORS}; weights are a safetensors or released .pth file, or its name in the "
        "cache folder (default: %(default)s)",
    )
    parser.add_argument(
        "--gaps", metavar="GAPS", default="1,-1", help="in frames, with commas (%(default)s)"
    )
    parser.add_argument("--format", choices=("flo", "kitti"), default="flo", help="%(default)s")
    parser.add_argument("--color", action="store_true", help="pictures too, in Colors_gap1, ...")
    parser.add_argument(
        "--check", action="store_true", help="print how well the flow explains the frames"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.set_defaults(run=_flow)


def _add_convert(commands) -> None:
    about = "bring a released PyTorch checkpoint of OCLR or RAFT to a safetensors file"
    parser = commands.add_parser("convert", help=about, description=about)
    parser.add_argument("input", metavar="IN.pth", help="released checkpoint")
    parser.add_argument("output", metavar="OUT.safetensors", help="file to write")
    parser.set_defaults(run=_convert)


def _segment(options: argparse.Namespace) -> None:
    from oclr_jax.pipeline import segment_to_folder

    record = segment_to_folder(
        options.input,
        options.output,
        weights=options.weights,
        flow=options.flow,
        overlay=not options.no_overlay,
        overwrite=options.overwrite,
        quiet=options.quiet,
    )
    if not record["video"]["moves"]:
        print(f"Nothing moves in {options.input}: the masks are empty.")
    elif not options.quiet:
        found, frames = len(record["objects"]), record["video"]["frames"]
        print(f"Moving objects found: {found}, in {frames} frames; see {options.output}.")


def _evaluate(options: argparse.Namespace) -> None:
    from oclr_jax.evaluate import evaluate_dataset, evaluate_synthetic, format_table

    if options.dataset in SYNTHETIC:
        if options.results or options.flow or options.gap or options.protocol:
            raise UserError(
                f"{options.dataset} is scored with a model, its own flow and the protocol paper; "
                "leave out --results, --flow, --gap and --protocol."
            )
        report = evaluate_synthetic(
            options.dataset, options.data, options.weights, options.output, options.quiet
        )
        print(format_table(report))
        return
    report = evaluate_dataset(
        options.dataset,
        options.data,
        weights=options.weights,
        flow=options.flow,
        gap=options.gap,
        results=options.results,
        protocols=options.protocol.split(",") if options.protocol else None,
        output=options.output,
        quiet=options.quiet,
    )
    print(format_table(report))


def _flow(options: argparse.Namespace) -> None:
    from oclr_jax.flow.source import open_estimator
    from oclr_jax.flow.to_folder import flow_to_folder

    # A negative number first, `--gaps -1,1`, would be taken for an option: `--gaps=-1,1` is not.
    try:
        gaps = [int(gap) for gap in options.gaps.split(",")]
    except ValueError:
        raise UserError(f"The gaps {options.gaps!r} are no whole numbers, such as 1,-1.") from None
    checks = flow_to_folder(
        options.input,
        options.output,
        open_estimator(options.flow, {"raft": {"rows": None}}),  # frames keep their own size
        gaps,
        format=options.format,
        color=options.color,
        check=options.check,
        quiet=options.quiet,
    )
    for gap, before, after in checks:
        print(f"gap {gap}: mean difference in grey levels {before:.2f}, along the flow {after:.2f}")


def _convert(options: argparse.Namespace) -> None:
    from oclr_jax.torch_import.convert import convert_checkpoint

    print(f"{options.output}: {convert_checkpoint(options.input, options.output)}")


def _cache_compiled_programs() -> None:
    """Keeps what jax compiles in the user's cache, so that the next run starts at once.

    Through the environment, before jax is imported; settings of the user's own stay.
    """
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(caches, "oclr_jax", "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


if __name__ == "__main__":
    sys.exit(main())

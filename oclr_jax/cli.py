"""The command line `oclr`: a thin layer over the library."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import oclr_jax
from oclr_jax.command import run_command
from oclr_jax.datasets.benchmarks import BENCHMARKS, PROTOCOLS, SYNTHETIC
from oclr_jax.errors import UserError
from oclr_jax.files import locked_output
from oclr_jax.types import MODELS, PRECISIONS

# As `flow.source` takes them; not imported from there, so that the help does not load OpenCV.
_ESTIMATORS = "dis[:PRESET], raft[:WEIGHTS] or raft-small[:WEIGHTS]"
EPILOG = """exit status:
  0    success
  2    an error in the input or the options, described in one sentence
  130  interrupted by Ctrl-C (143 by SIGTERM, 129 by SIGHUP); partial results are removed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; see `run_command`."""
    return run_command("oclr", lambda: _run(arguments))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; argparse exits with status 2 on a usage error."""
    parser = argparse.ArgumentParser(
        "oclr",
        description=oclr_jax.__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"oclr {oclr_jax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_segment(commands)
    _add_propagate(commands)
    _add_evaluate(commands)
    _add_refine(commands)
    _add_select(commands)
    _add_flow(commands)
    _add_convert(commands)
    _add_weights(commands)
    return parser


def _run(arguments: Sequence[str] | None) -> None:
    parser = build_parser()
    options, extra = parser.parse_known_args(arguments)
    if extra and all(os.path.exists(argument) for argument in extra):
        raise UserError(
            f"There are {len(extra)} paths too many, the first one {extra[0]}; to segment frames, "
            "give the folder that holds them."
        )
    if extra:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    _cache_compiled_programs()
    options.run(options)


def _not_empty(name: str) -> Callable[[str], str]:
    """Type of an argument that must not be empty, as an unset shell variable leaves it."""

    def check(text: str) -> str:
        if not text:
            raise UserError(f"{name} is empty; give a value or leave it out.")
        return text

    return check


def _add_command(commands, name: str, about: str, run: Callable) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
    parser.set_defaults(run=run)
    return parser


def _add_video(parser: argparse.ArgumentParser, output: str) -> None:
    parser.add_argument(
        "input", metavar="INPUT", type=_not_empty("INPUT"), help="video file, or folder of frames"
    )
    parser.add_argument("output", metavar="OUTPUT", type=_not_empty("OUTPUT"), help=output)
    parser.add_argument(
        "--keep-damaged",
        action="store_true",
        help="use the intact frames of a damaged video file instead of refusing it",
    )


def _add_segment(commands) -> None:
    about = "find, track and segment the moving objects of a video"
    parser = _add_command(commands, "segment", about, _segment)
    _add_video(parser, "folder for masks, amodal masks, objects.json and overlay.mp4")
    _add_model_options(parser)
    parser.add_argument("--no-overlay", action="store_true", help="do not write overlay.mp4")
    parser.add_argument("--overwrite", action="store_true", help="replace results in OUTPUT")


def _add_propagate(commands) -> None:
    about = "carry the mask of the first frame to all frames of a video"
    parser = _add_command(commands, "propagate", about, _propagate)
    parser.add_argument(
        "input", metavar="INPUT", type=_not_empty("INPUT"), help="video file, or folder of frames"
    )
    parser.add_argument(
        "mask",
        metavar="MASK.png",
        type=_not_empty("MASK.png"),
        help="mask of the first frame: object ids (indexed or grey), or white on black",
    )
    parser.add_argument(
        "output",
        metavar="OUTPUT",
        type=_not_empty("OUTPUT"),
        help="folder for masks, objects.json and overlay.mp4",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE",
        type=_not_empty("--weights"),
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


def _add_evaluate(commands) -> None:
    about = "score a model, or masks on disk, on a benchmark"
    parser = _add_command(commands, "evaluate", about, _evaluate)
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
        type=_not_empty("--data"),
        required=True,
        help="folder, zip file or TFDS build of the dataset",
    )
    parser.add_argument(
        "--protocol",
        metavar="NAMES",
        type=_not_empty("--protocol"),
        help=f"comma-separated, of {', '.join(PROTOCOLS)} (default: those of the dataset)",
    )
    parser.add_argument(
        "--results",
        metavar="DIR",
        type=_not_empty("--results"),
        help="score the masks in this folder instead of a model",
    )
    parser.add_argument("--gap", type=int, choices=(1, 2, 3), help="frame gap of the flow")
    parser.add_argument(
        "--output",
        metavar="DIR",
        type=_not_empty("--output"),
        help="folder for scores, masks and report; an interrupted evaluation resumes there",
    )
    _add_model_options(parser)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        choices=MODELS,
        default=MODELS[0],
        help="model of moving objects; geometric: flow that a homography does not explain, a "
        "baseline without learning (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        metavar="NAME|FILE",
        type=_not_empty("--weights"),
        help="weights of the model (default: those that come with the package)",
    )
    parser.add_argument(
        "--flow",
        metavar="ESTIMATOR|FOLDER",
        type=_not_empty("--flow"),
        help=f"{_ESTIMATORS}, or a folder of flow files (default: the estimator of the weights)",
    )
    parser.add_argument(
        "--refine",
        metavar="NAMES",
        type=_not_empty("--refine"),
        help="refiners of the masks, separated by commas, applied in order; none: the masks as the "
        "flow model predicts them (default: self, which learns the objects' appearance)",
    )
    parser.add_argument(
        "--passes",
        type=int,
        choices=(1, 2, 4),
        default=1,
        help="run the model on the video, mirrored (2), and also reversed in time (4), and average "
        "its masks (default: %(default)s)",
    )
    _add_refine_weights(parser)
    _add_precision(parser)
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def _add_refine_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--refine-weights",
        metavar="DIR",
        type=_not_empty("--refine-weights"),
        help="folder with a file of weights for each of selector and corrector, for the refiners "
        "select, correct and appearance (default: those in the package or the cache folder)",
    )


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="numeric precision of OCLR and RAFT (default: float32 on a CPU, bfloat16 on GPU and "
        "TPU)",
    )


def _add_refine(commands) -> None:
    about = "refine the masks of any program, given as a folder of indexed PNG files"
    parser = _add_command(commands, "refine", about, _refine)
    _add_masks(parser)
    parser.add_argument(
        "output", metavar="OUTPUT", type=_not_empty("OUTPUT"), help="folder for the refined masks"
    )
    parser.add_argument(
        "--refine",
        metavar="NAMES",
        type=_not_empty("--refine"),
        required=True,
        help="refiners, separated by commas, applied in order",
    )
    _add_refine_weights(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace results in OUTPUT")
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def _add_select(commands) -> None:
    about = "score the masks of any program in every frame, and draw the best and worst ones"
    parser = _add_command(commands, "select", about, _select)
    _add_masks(parser)
    parser.add_argument(
        "--sheet",
        metavar="FILE",
        default="selection.png",
        type=_not_empty("--sheet"),
        help="picture of exemplars and error maps (default: %(default)s)",
    )
    _add_refine_weights(parser)
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def _add_masks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "input", metavar="INPUT", type=_not_empty("INPUT"), help="video file, or folder of frames"
    )
    parser.add_argument(
        "masks",
        metavar="MASKS",
        type=_not_empty("MASKS"),
        help="folder with a PNG of object ids for each frame, 0 = background; a frame without a "
        "file has no objects",
    )


def _add_flow(commands) -> None:
    about = "estimate the optical flow of a video and write it to files that --flow reads"
    parser = _add_command(commands, "flow", about, _flow)
    _add_video(parser, "folder for Flows_gap1, Flows_gap-1, ...")
    parser.add_argument(
        "--flow",
        metavar="ESTIMATOR",
        default="dis",
        type=_not_empty("--flow"),
        help=f"{_ESTIMATORS}; weights are a safetensors or released .pth file, or its name in the "
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
    _add_precision(parser)
    parser.add_argument("--quiet", action="store_true", help="print no progress")


def _add_convert(commands) -> None:
    about = "convert a released PyTorch checkpoint of OCLR or RAFT to safetensors"
    parser = _add_command(commands, "convert", about, _convert)
    parser.add_argument(
        "input", metavar="IN.pth", type=_not_empty("IN.pth"), help="released checkpoint"
    )
    parser.add_argument(
        "output",
        metavar="OUT.safetensors",
        type=_not_empty("OUT.safetensors"),
        help="file to write; an existing one is replaced",
    )


def _add_weights(commands) -> None:
    about = "list the known weights, and where each is looked for and published"
    _add_command(commands, "weights", about, _weights)


def _segment(options: argparse.Namespace) -> None:
    from oclr_jax.pipeline import segment_to_folder

    record = segment_to_folder(
        options.input,
        options.output,
        weights=options.weights,
        flow=options.flow,
        refine=_refiners(options.refine),
        overlay=not options.no_overlay,
        overwrite=options.overwrite,
        keep_damaged=options.keep_damaged,
        precision=options.precision,
        passes=options.passes,
        refine_weights=options.refine_weights,
        model=options.model,
        quiet=options.quiet,
    )
    if not record["video"]["moves"]:
        print(f"Nothing moves in {options.input}: the masks are empty.")
    elif not options.quiet:
        found, frames = len(record["objects"]), record["video"]["frames"]
        print(
            f"Moving objects found: {found}, in {frames} frames, computed in "
            f"{record['settings']['precision']}; see {options.output}."
        )


def _propagate(options: argparse.Namespace) -> None:
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


def _evaluate(options: argparse.Namespace) -> None:
    from oclr_jax.evaluate import format_table

    with locked_output(options.output) if options.output else nullcontext():
        report = _evaluation_report(options)
    print(format_table(report))


def _evaluation_report(options: argparse.Namespace) -> dict[str, Any]:
    from oclr_jax.evaluate import evaluate_dataset, evaluate_synthetic

    if options.dataset in SYNTHETIC:
        unused = options.results, options.flow, options.gap, options.protocol, options.refine
        if any(unused) or options.refine_weights:
            raise UserError(
                f"{options.dataset} is scored with a model, the flow of the dataset and the "
                "protocol paper; leave out --results, --flow, --gap, --protocol and --refine."
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
        refine=_refiners(options.refine),
        protocols=_names(options.protocol),
        output=options.output,
        quiet=options.quiet,
        precision=options.precision,
        passes=options.passes,
        refine_weights=options.refine_weights,
        model=options.model,
    )


def _refine(options: argparse.Namespace) -> None:
    from oclr_jax.mask_folder import refine_masks

    count = refine_masks(
        options.input,
        options.masks,
        options.output,
        _names(options.refine),
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


def _refiners(option: str | None) -> list[str] | None:
    """None for the default refiners, an empty list for no refinement."""
    return None if option is None else [] if option == "none" else option.split(",")


def _names(option: str | None) -> list[str]:
    return option.split(",") if option else []


def _flow(options: argparse.Namespace) -> None:
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


def _convert(options: argparse.Namespace) -> None:
    from oclr_jax.weights.convert import convert_checkpoint

    info = convert_checkpoint(options.input, options.output)
    print(f"{options.output}: {info.name}, weights for {info.kind.title}")


def _weights(_: argparse.Namespace) -> None:
    from oclr_jax.weights.registry import list_weights

    print(list_weights())


def _cache_compiled_programs() -> None:
    """Keeps jax's compiled programs in the user's cache, so that the next run starts at once.

    Set through the environment, before jax is imported; the user's own settings win.
    """
    from oclr_jax.storage import cache_folder

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


if __name__ == "__main__":
    sys.exit(main())

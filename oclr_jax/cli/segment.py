"""`oclr segment`."""

import argparse
import re
from typing import Any

from oclr_jax.cli.export import FORMATS
from oclr_jax.cli.options import (
    add_command,
    add_model_options,
    add_video,
    names,
    not_empty,
    refiner_names,
)
from oclr_jax.errors import SomeFailed, UserError


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
    online = parser.add_argument_group("streams")
    online.add_argument(
        "--online",
        action="store_true",
        help="INPUT is a stream: a camera such as /dev/video0, a named pipe, or - for standard "
        "input; masks are written while it runs, without refiners",
    )
    online.add_argument(
        "--delay",
        metavar="FRAMES",
        type=int,
        help="frames after which the masks of a frame are written (default: about one window of "
        "the model); shorter delays take more computation",
    )
    online.add_argument(
        "--raw",
        metavar="WIDTHxHEIGHT",
        type=_size,
        help="the stream is nothing but 8-bit RGB frames of this size",
    )


def run(options: argparse.Namespace) -> None:
    from oclr_jax.batch import is_pattern

    if options.online:
        _segment_stream(options)
    elif options.delay is not None or options.raw is not None or options.input == "-":
        raise UserError("Standard input, --delay and --raw are for streams; add --online.")
    elif is_pattern(options.input):
        _segment_many(options)
    else:
        _segment_one(options)


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise UserError(f"--raw takes the size of the frames, such as 640x480, not {text!r}.")
    return int(match[1]), int(match[2])


def _segment_one(options: argparse.Namespace) -> None:
    from oclr_jax.pipeline import segment_to_folder

    record = segment_to_folder(options.input, options.output, **_settings(options))
    if not record["video"]["moves"]:
        print(f"Nothing moves in {options.input}: the masks are empty.")
    elif not options.quiet:
        found, frames = len(record["objects"]), record["video"]["frames"]
        settings = record["settings"]
        used = settings["human_annotation"] == "used"
        print(
            f"Moving objects found: {found}, in {frames} frames, computed in "
            f"{settings['precision']}{', human annotation used' if used else ''}; "
            f"see {options.output}."
        )


def _segment_many(options: argparse.Namespace) -> None:
    from oclr_jax.batch import FAILED, find_videos, format_outcomes, open_batch, segment_many

    videos = find_videos(options.input, options.output)
    batch = open_batch(**_settings(options))
    outcomes = list(segment_many(batch, videos, options.output))
    print(format_outcomes(outcomes))
    failed = sum(outcome.state == FAILED for outcome in outcomes)
    if failed:
        raise SomeFailed(
            f"{failed} of {len(outcomes)} videos could not be segmented; the same command tries "
            "these again."
        )


def _segment_stream(options: argparse.Namespace) -> None:
    from oclr_jax.online import segment_online

    if options.refine not in (None, "none") or options.refine_weights or options.export:
        raise UserError(
            "The masks of a stream cannot be refined or exported while it runs; leave out --refine "
            "and --export."
        )
    found = segment_online(
        options.input,
        options.output,
        weights=options.weights,
        flow=options.flow,
        delay=options.delay,
        raw=options.raw,
        overwrite=options.overwrite,
        precision=options.precision,
        passes=options.passes,
        model=options.model,
        quiet=options.quiet,
    )
    if not options.quiet:
        ended = "was interrupted" if found.interrupted else "ended"
        print(
            f"The stream {ended} after {found.frames} frames. Moving objects found: "
            f"{found.objects}; see {options.output}."
        )


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The arguments that `segment_to_folder` and `open_batch` share."""
    return {
        "weights": options.weights,
        "flow": options.flow,
        "refine": refiner_names(options.refine),
        "overlay": not options.no_overlay,
        "overwrite": options.overwrite,
        "keep_damaged": options.keep_damaged,
        "precision": options.precision,
        "passes": options.passes,
        "refine_weights": options.refine_weights,
        "model": options.model,
        "quiet": options.quiet,
        "export": names(options.export),
    }

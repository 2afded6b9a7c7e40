"""Many videos with one model: a folder of results for each; a failure does not stop the others."""

import glob
import json
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from oclr_jax.errors import NO_SPACE, UserError, describe_os_error
from oclr_jax.export.exporter import FOLDER as EXPORTS
from oclr_jax.export.exporter import FORMATS, check_formats, export_result
from oclr_jax.files import OutputInUse, WriteError, staged_output
from oclr_jax.flow import FlowEstimator
from oclr_jax.flow.source import model_estimator, warn_of_other_flow
from oclr_jax.oclr.predict import Segmenter, load_segmenter
from oclr_jax.pipeline import describe_settings, segment_into
from oclr_jax.refine.refiner import Refiner, open_refiners
from oclr_jax.results import RESULT_NAMES, SegmentationRecord, read_record
from oclr_jax.video.images import IMAGE_SUFFIXES
from oclr_jax.video.names import natural_sorted, without_junk

AnyPath = TypeVar("AnyPath", Path, epath.Path)
DONE, KEPT, FAILED = "done", "already there", "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one video."""

    video: str
    state: str  # DONE, KEPT or FAILED
    frames: int | None = None
    objects: int | None = None
    seconds: float | None = None
    error: str = ""  # one sentence
    may_pass: bool = False  # whether the failure is of a kind that may pass


@dataclass(frozen=True)
class Batch:
    """What all videos share: models that were opened once, and options; see `segment_to_folder`."""

    segmenter: Segmenter
    refiners: Sequence[Refiner]
    flow: FlowEstimator | str | os.PathLike
    settings: Mapping[str, Any]  # that a finished result must have
    overlay: bool = True
    overwrite: bool = False
    keep_damaged: bool = False
    export: Sequence[str] = ()
    quiet: bool = True

    def segment(self, video: str | os.PathLike, output: str | os.PathLike) -> Outcome:
        """Segments one video into a folder of its own, unless its result is already there.

        A video that cannot be segmented is an outcome and no error, and so is a fault of the
        program, whose traceback goes to standard error. Raises WriteError where the disk is full.
        """
        start = time.perf_counter()
        try:
            state, record = self._segment(video, output)
        except WriteError as error:
            if error.args[1] in NO_SPACE:
                raise
            return _failed(video, str(error), may_pass=True)
        except (UserError, UnicodeError) as error:
            return _failed(video, str(error), may_pass=isinstance(error, OutputInUse))
        except OSError as error:
            return _failed(video, f"{describe_os_error(error)}.", may_pass=True)
        except Exception as error:
            traceback.print_exc()
            text = f"The program failed ({type(error).__name__}: {error}); please report it."
            return _failed(video, text, may_pass=True)
        seconds = time.perf_counter() - start if state == DONE else None
        found, frames = len(record["objects"]), record["video"]["frames"]
        return Outcome(os.fspath(video), state, frames, found, seconds)

    def _segment(
        self, video: str | os.PathLike, output: str | os.PathLike
    ) -> tuple[str, SegmentationRecord]:
        if not self.overwrite and Path(output, "objects.json").is_file():
            record = read_record(output)
            if record["settings"] != self.settings:
                raise UserError(
                    f"{os.fspath(output)} has a result with other settings; add --overwrite or "
                    "choose another folder."
                )
            self._add_exports(video, output)
            return KEPT, record
        inputs = (video, self.flow if isinstance(self.flow, str | os.PathLike) else None)
        with staged_output(output, RESULT_NAMES, self.overwrite, inputs) as folder:
            record = segment_into(
                folder,
                output,
                video,
                self.segmenter,
                self.flow,
                self.refiners,
                overlay=self.overlay,
                export=self.export,
                keep_damaged=self.keep_damaged,
                quiet=self.quiet,
            )
        return DONE, record

    def _add_exports(self, video: str | os.PathLike, output: str | os.PathLike) -> None:
        folder = Path(output, EXPORTS)
        missing = [name for name in self.export if not (folder / FORMATS[name].file).exists()]
        if missing:
            export_result(output, missing, video=video, keep_damaged=self.keep_damaged)


def _failed(video: str | os.PathLike, error: str, may_pass: bool) -> Outcome:
    return Outcome(os.fspath(video), FAILED, error=error, may_pass=may_pass)


def open_batch(
    weights: str | os.PathLike | None = None,
    flow: str | os.PathLike | None = None,
    refine: Sequence[str] | None = None,
    precision: str | None = None,
    passes: int | None = None,
    refine_weights: str | os.PathLike | None = None,
    model: str = "oclr",
    export: Sequence[str] = (),
    **options: bool,
) -> Batch:
    """Opens the models once for many videos.

    Args:
      weights, flow, refine, precision, passes, refine_weights, model, export: see
        `pipeline.segment_to_folder`. A folder of flow has a folder for each video.
      options: overlay, overwrite, keep_damaged and quiet of `Batch`.

    Raises:
      UserError: something that all videos need is missing or wrong.
    """
    if export:
        check_formats(export)
    refiners = open_refiners(refine, refine_weights)
    segmenter = load_segmenter(weights, precision, passes, model)
    info = segmenter.info
    estimator = model_estimator(flow, info.flow, segmenter.precision)
    if estimator is not None and info.data_version is not None:
        warn_of_other_flow(info.name, info.flow, estimator.settings())
    # As they come back from objects.json.
    settings = json.loads(json.dumps(describe_settings(segmenter, estimator, refiners)))
    source = flow if estimator is None else estimator
    return Batch(segmenter, refiners, source, settings, export=export, **options)


def segment_many(
    batch: Batch, videos: Mapping[str, Path], output: str | os.PathLike
) -> Iterator[Outcome]:
    """Segments videos one after the other, each into the folder of its name in `output`."""
    for number, (name, video) in enumerate(videos.items(), start=1):
        if not batch.quiet:
            print(f"[{number}/{len(videos)}] {video}", file=sys.stderr)
        yield batch.segment(video, Path(output, name))


def is_pattern(text: str) -> bool:
    """Whether an input names several videos, such as `videos/*.mp4`."""
    return glob.has_magic(text) and not os.path.lexists(text)


def find_videos(pattern: str, output: str | os.PathLike) -> dict[str, Path]:
    """The files and folders that match a pattern, by the name of their folder in `output`.

    The name is that of the file without suffix, with it where two would be the same. Hidden files,
    images, results and `output` itself are left out.

    Raises:
      UserError: nothing matches, only images do, or two matches have one name.
    """
    matches = [Path(path) for path in glob.glob(pattern, recursive=True)]
    found = natural_sorted(without_junk(matches))
    videos = [path for path in found if _may_be_video(path, Path(output))]
    if found and not videos:
        raise UserError(
            f"{pattern} is a pattern of images; give the folder of the frames, {found[0].parent}."
        )
    if not videos:
        raise UserError(f"Nothing matches {pattern}; check the pattern.")
    stems = [path.name if path.is_dir() else path.stem for path in videos]
    return name_videos(videos, stems, pattern)


def name_videos(
    videos: Sequence[AnyPath], stems: Sequence[str], pattern: str
) -> dict[str, AnyPath]:
    """Videos by the names of their results: stems, or names where two stems are the same."""
    often = Counter(stems)
    names = [
        path.name if often[stem] > 1 else stem for path, stem in zip(videos, stems, strict=True)
    ]
    name, number = Counter(names).most_common(1)[0]
    if number > 1:
        raise UserError(
            f"Several files of {pattern} are called {name}; segment the folders one by one."
        )
    return dict(zip(names, videos, strict=True))


def _may_be_video(path: Path, output: Path) -> bool:
    if path.is_dir():
        return path.resolve() != output.resolve() and not (path / "objects.json").exists()
    return path.suffix.lower() not in IMAGE_SUFFIXES


def format_outcomes(outcomes: Sequence[Outcome]) -> str:
    """A table of videos, and how many ended in which way."""
    rows = [("video", "frames", "objects", "seconds", "result")]
    for outcome in outcomes:
        seconds = "-" if outcome.seconds is None else f"{outcome.seconds:.1f}"
        numbers = ("-" if n is None else str(n) for n in (outcome.frames, outcome.objects))
        state = f"{outcome.state}: {outcome.error}" if outcome.error else outcome.state
        rows.append((Path(outcome.video).name, *numbers, seconds, state))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in (1, 2, 3)), row[4]])
        for row in rows
    ]
    states = [outcome.state for outcome in outcomes]
    counts = ", ".join(
        f"{states.count(state)} {state}" for state in (DONE, KEPT, FAILED) if state in states
    )
    return "\n".join([*lines, f"{len(outcomes)} videos: {counts}"])

"""Segments thousands of videos on many hosts with Apache Beam: each video is one element.

python launch/cluster/segment_beam.py --videos '/data/videos/*.mp4' --output /data/results -- \
    --runner FlinkRunner --flink_master HOST:PORT

Every host needs this package with the extra `beam`. Videos and results lie on a file system that
all hosts see, or in buckets (`gs://`, with the extra `gcs`): then each worker copies a video to its
disk, and its results back, objects.json last. The options after `--` are those of Beam, whose
default runner works on this machine.

A result is there or not, never in part. The same command therefore goes on where it was, Beam may
start elements again as it likes, and the last run leaves one result for each video. Failures that
may pass, such as those of a file system, are tried again. The outcome of every video is a line of
OUTPUT/outcomes.jsonl; the exit status is 3 if some failed.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("segment_beam", "beam"):
    sys.exit(BAD_INPUT)

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.utils.shared import Shared
from etils import epath

from oclr_jax.batch import (
    FAILED,
    Batch,
    Outcome,
    find_videos,
    format_outcomes,
    name_videos,
    open_batch,
)
from oclr_jax.cli.options import add_model_options, names, refiner_names
from oclr_jax.errors import SomeFailed, UserError
from oclr_jax.files import replacing

REPORT = "outcomes.jsonl"
PAUSES = (1.0, 10.0, 60.0)  # seconds before the second, third and fourth attempt


class SegmentVideo(beam.DoFn):
    """From (name, video) to its outcome, a dict; the models are opened once in each process."""

    def __init__(self, output: str, options: dict[str, Any], pauses: tuple[float, ...] = PAUSES):
        self._output, self._options, self._pauses = output, options, pauses
        self._shared = Shared()

    def setup(self) -> None:
        """Opens the models, or takes those that another thread has opened."""
        self._batch = self._shared.acquire(lambda: open_batch(**self._options))

    def process(self, element: tuple[str, str]) -> Iterator[dict[str, Any]]:
        """Segments a video, again after a pause where it failed for a reason that may pass."""
        name, video = element
        for pause in (*self._pauses, None):
            outcome = segment_anywhere(self._batch, video, f"{self._output}/{name}")
            if pause is None or not outcome.may_pass:
                break
            beam.metrics.Metrics.counter("oclr", "retries").inc()
            time.sleep(pause)
        beam.metrics.Metrics.counter("oclr", outcome.state).inc()
        yield dataclasses.asdict(outcome)


def segment_anywhere(batch: Batch, video: str, output: str) -> Outcome:
    """As `Batch.segment`; video and output may lie in buckets."""
    if "://" not in video + output:
        return batch.segment(video, output)
    try:
        with tempfile.TemporaryDirectory(prefix="oclr_") as folder:
            local = _download(epath.Path(video), Path(folder, "video"))
            if "://" not in output:
                return dataclasses.replace(batch.segment(local, output), video=video)
            result, target = Path(folder, "result"), epath.Path(output)
            if (target / "objects.json").exists() and not batch.overwrite:
                _download(target / "objects.json", result)
                # A finished result is complete: its exports need not be made again.
                batch = dataclasses.replace(batch, export=())
            outcome = batch.segment(local, result)
            if outcome.state == "done":
                _upload(result, target)
            return dataclasses.replace(outcome, video=video)
    except OSError as error:
        return Outcome(video, FAILED, error=f"{error}", may_pass=True)


def _download(path: epath.Path, folder: Path) -> Path:
    folder.mkdir()
    copy = folder / path.name
    if path.is_dir():
        copy.mkdir()
        for file in path.iterdir():
            (copy / file.name).write_bytes(file.read_bytes())
    else:
        copy.write_bytes(path.read_bytes())
    return copy


def _upload(result: Path, target: epath.Path) -> None:
    """Copies a result, whose record comes last: what is there without it is no result."""
    if target.exists():
        target.rmtree()
    files = [path for path in result.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == "objects.json"):
        copy = target / path.relative_to(result).as_posix()
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


def list_videos(pattern: str, output: str) -> dict[str, str]:
    """The videos that match a pattern, by the name of their results; see `find_videos`."""
    if "://" not in pattern:
        return {name: str(path.resolve()) for name, path in find_videos(pattern, output).items()}
    folder, _, name = pattern.rpartition("/")
    found = sorted(epath.Path(folder).glob(name))
    if not found:
        raise UserError(f"Nothing matches {pattern}; check the pattern.")
    # A bucket would be asked once for each path whether it is a folder of frames.
    stems = [path.stem for path in found]
    return {name: str(path) for name, path in name_videos(found, stems, pattern).items()}


def run(
    videos: dict[str, str],
    output: str,
    options: dict[str, Any],
    beam_options: list[str],
    pauses: tuple[float, ...] = PAUSES,
) -> list[Outcome]:
    """Segments the videos and returns their outcomes, which are also written to REPORT."""
    with beam.Pipeline(options=PipelineOptions(beam_options)) as pipeline:
        (
            pipeline
            | "videos" >> beam.Create(list(videos.items()))
            | "spread" >> beam.Reshuffle()
            | "segment" >> beam.ParDo(SegmentVideo(output, options, pauses))
            | "all" >> beam.combiners.ToList()
            | "report" >> beam.Map(write_report, list(videos.values()), f"{output}/{REPORT}")
        )
    lines = epath.Path(output, REPORT).read_text().splitlines()
    return [Outcome(**json.loads(line)) for line in lines]


def write_report(outcomes: list[dict[str, Any]], order: list[str], path: str) -> None:
    """Writes one line of JSON for each outcome, in the order of the videos."""
    by_video = {outcome["video"]: outcome for outcome in outcomes}
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(by_video[video]) + "\n" for video in order))


def build_parser() -> argparse.ArgumentParser:
    """The options before `--`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--videos", metavar="PATTERN", required=True, help="quoted, or gs://")
    parser.add_argument("--output", metavar="DIR", required=True, help="a folder, or gs://")
    parser.add_argument("--no-overlay", action="store_true", help="do not write overlay.mp4")
    parser.add_argument("--overwrite", action="store_true", help="make all results again")
    parser.add_argument("--keep-damaged", action="store_true", help="use damaged videos")
    parser.add_argument("--export", metavar="FORMATS", help="also export the results")
    add_model_options(parser)
    return parser


def main(arguments: list[str]) -> None:
    """Runs the command; raises SomeFailed where a video failed."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    options = build_parser().parse_args(arguments[:split])
    output = options.output
    if "://" not in output:
        Path(output).mkdir(parents=True, exist_ok=True)
        output = str(Path(output).resolve())
    shared = {
        "weights": options.weights,
        "flow": options.flow,
        "refine": refiner_names(options.refine),
        "precision": options.precision,
        "passes": options.passes,
        "refine_weights": options.refine_weights,
        "model": options.model,
        "export": names(options.export),
        "overlay": not options.no_overlay,
        "overwrite": options.overwrite,
        "keep_damaged": options.keep_damaged,
    }
    videos = list_videos(options.videos, output)
    outcomes = run(videos, output, shared, arguments[split + 1 :])
    print(format_outcomes(outcomes))
    failed = sum(outcome.state == FAILED for outcome in outcomes)
    if failed:
        raise SomeFailed(
            f"{failed} of {len(outcomes)} videos could not be segmented; see {output}/{REPORT}."
        )


if __name__ == "__main__":
    sys.exit(run_command("segment_beam.py", lambda: main(sys.argv[1:])))

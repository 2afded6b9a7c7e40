"""Generates `oclr_syn` in parallel processes; an interrupted run can be resumed.

A shard is a function of the configuration and its own number, so processes render whole shards
and their number makes no difference. `staging` says how shards become a dataset.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
from tqdm import tqdm

from data_pipelines.builders.card import write_card
from data_pipelines.builders.examples import features
from data_pipelines.builders.oclr_syn import (
    OclrSyn,
    OclrSynConfig,
    Recipe,
    RecordWriter,
    Rendering,
    shard_ranges,
)
from data_pipelines.builders.staging import (
    Shard,
    add_metadata,
    check_finished,
    list_shards,
    publish,
    start,
    unfinished_directory,
)
from data_pipelines.synthetic import SceneConfig, Sources
from data_pipelines.synthetic.sources import PROCEDURAL
from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.flow.estimator import FlowEstimator

# Globals of a rendering process: the number of sequences that all processes have rendered, and an
# event that tells them to stop.
_rendered = None
_stop = None


class _Stopped(Exception):
    """Another process failed, or the user interrupted."""


def generate_dataset(
    config: OclrSynConfig,
    data_dir: str | os.PathLike,
    estimator: FlowEstimator,
    seed: int = 0,
    processes: int = 1,
    quiet: bool = False,
    sources: Sources = PROCEDURAL,
) -> tuple[Path, bool]:
    """Renders a dataset into `data_dir/oclr_syn/<config>/<version>`.

    An existing dataset with the same settings is left unchanged, an unfinished one is resumed.
    Processes are spawned: a script that calls this needs `if __name__ == "__main__"`.

    Args:
      config: one of `OclrSyn.BUILDER_CONFIGS`, or a custom one.
      data_dir: TFDS data directory on a local disk.
      estimator: of the estimated flow; see `oclr_jax.flow`.
      seed: first seed of the generator of every sequence.
      processes: number of rendering processes; does not affect the data.
      quiet: no progress bar (there is also none unless standard error is a terminal).
      sources: textures, silhouettes and background videos, from `open_sources`.

    Returns:
      The dataset's directory, and whether anything was rendered.

    Raises:
      UserError: there is a dataset with other settings, an unfinished one was started with another
        version of OpenCV, or the dataset cannot be written.
      KeyboardInterrupt: after every process has stopped; finished shards are kept.
    """
    if seed < 0:
        raise UserError(f"The seed must be 0 or more, not {seed}.")
    recipe = Rendering(config, seed, estimator, sources)
    return build_dataset(config, data_dir, recipe, processes, quiet)


def build_dataset(
    config: OclrSynConfig,
    data_dir: str | os.PathLike,
    recipe: Recipe,
    processes: int = 1,
    quiet: bool = False,
) -> tuple[Path, bool]:
    """As `generate_dataset`, with the examples of any recipe."""
    if processes < 1:
        raise UserError(f"The number of processes must be at least 1, not {processes}.")
    if "://" in str(data_dir):
        raise UserError(
            f"Datasets are written to a local disk, not to {data_dir}; copy the folder afterwards."
        )
    builder = OclrSyn(data_dir=data_dir, config=config, recipe=recipe)
    directory = Path(builder.data_dir)
    settings = recipe.settings()
    if directory.exists():
        check_finished(directory, settings)
        return directory, False
    try:
        unfinished = start(directory, settings)
        ranges = {split: shard_ranges(config, split) for split in config.splits}
        shards = list_shards(builder.name, ranges, unfinished)
        _render_missing(builder, shards, processes, quiet)
        add_metadata(builder.info, shards, directory)
        write_card(unfinished)
        publish(directory)
    except OSError as error:
        raise UserError(
            f"Cannot write the dataset to {unfinished_directory(directory)}: "
            f"{error.strerror or error}; free some space or choose another data directory, then "
            "run the same command again."
        ) from error
    return directory, True


def _render_missing(builder: OclrSyn, shards: list[Shard], processes: int, quiet: bool) -> None:
    """Renders the shards that do not exist yet, with a progress bar."""
    missing = [shard for shard in shards if not shard.path.exists()]
    total = sum(len(shard.indices) for shard in shards)
    done_before = total - sum(len(shard.indices) for shard in missing)
    bar = tqdm(
        total=total,
        initial=done_before,
        desc=f"{builder.name}/{builder.builder_config.name}",
        unit="seq",
        disable=True if quiet else None,
    )
    with bar:
        if missing:
            for rendered in _render_shards(builder, missing, processes):
                bar.update(done_before + rendered - bar.n)


def _render_shards(builder: OclrSyn, shards: list[Shard], processes: int) -> Iterator[int]:
    """Renders shards in parallel; yields the number of rendered sequences every 0.2 s."""
    # Spawned, because forking a process with threads (jax, OpenCV) can deadlock.
    context = multiprocessing.get_context("spawn")
    rendered, stop = context.Value("q", 0), context.Event()
    with ProcessPoolExecutor(
        min(processes, len(shards)), context, _start_process, (rendered, stop)
    ) as pool:
        scene = builder.builder_config.scene
        pending = {pool.submit(_write_shard, builder.recipe, scene, shard) for shard in shards}
        try:
            while pending:
                done, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                yield rendered.value
        except BrokenProcessPool as error:
            raise UserError(
                "A rendering process was killed, possibly because memory ran out; run the same "
                "command again with fewer processes to resume."
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _start_process(rendered, stop) -> None:
    global _rendered, _stop
    _rendered, _stop = rendered, stop
    # The parent handles Ctrl-C; this process exits when the parent is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # One thread per process: the processes already use every core.
    cv2.setNumThreads(1)


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_shard(recipe: Recipe, scene: SceneConfig, shard: Shard) -> None:
    serializer = features(scene)

    def records() -> Iterator[tuple[int, bytes]]:
        for index, example in recipe.examples(shard.split, shard.indices):
            if _stop.is_set():
                raise _Stopped
            yield index, serializer.serialize_example(example)
            with _rendered.get_lock():
                _rendered.value += 1

    with replacing(shard.path) as temporary:
        RecordWriter().write(temporary, records())

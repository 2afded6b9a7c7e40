"""Builds `oclr_syn` in parallel processes; what is interrupted goes on where it stopped.

A file (shard) of the dataset is a function of the configuration and its own number, so processes
render whole files and nothing depends on how many there are. Files appear, finished, in a folder
`<version>.unfinished`; when all are there, the metadata is added and the folder gets its name.
"""

import dataclasses
import json
import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2
import tensorflow_datasets as tfds
from tqdm import tqdm

from data_pipelines.builders.card import write_card
from data_pipelines.builders.examples import features
from data_pipelines.builders.oclr_syn import (
    FILE_FORMAT,
    OclrSyn,
    OclrSynConfig,
    Recipe,
    RecordWriter,
    Rendering,
    shard_ranges,
)
from data_pipelines.synthetic import SceneConfig, Sources
from data_pipelines.synthetic.sources import PROCEDURAL
from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.flow.estimator import FlowEstimator

_SETTINGS = "metadata.json"  # TFDS's name; written first, it tells what unfinished files hold

# In a rendering process: how many sequences all of them have rendered, and whether to stop.
_rendered = None
_stop = None


class _Stopped(Exception):
    """Another process failed, or the user interrupted."""


@dataclasses.dataclass(frozen=True)
class _Shard:
    """One file of the dataset."""

    path: Path
    split: str
    indices: range  # the sequences it holds


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

    A dataset that is there already, with the same settings, is left as it is; one that was begun
    with them is finished. Processes are spawned: a script that calls this needs the usual
    `if __name__ == "__main__"`.

    Args:
      config: one of `OclrSyn.BUILDER_CONFIGS`, or one of your own.
      data_dir: TFDS data directory on a local disk.
      estimator: of `oclr_jax.flow`; gives the estimated flow.
      seed: first seed of every sequence's generator.
      processes: how many render at the same time; makes no difference to the bytes.
      quiet: no progress bar (there is none either where standard error is not a terminal).
      sources: what scenes are made of, from `open_sources`.

    Returns:
      The directory for `tfds.builder_from_directory` and `make_loader`, and whether anything had
      to be rendered.

    Raises:
      UserError: there is a dataset with other settings; or it cannot be written.
      KeyboardInterrupt: passed on once every process has stopped; finished files are kept.
    """
    if seed < 0:
        raise UserError(f"A seed cannot be negative, and {seed} is; use 0 or more.")
    recipe = Rendering(config, seed, estimator, sources)
    return build_dataset(config, data_dir, recipe, processes, quiet)


def build_dataset(
    config: OclrSynConfig,
    data_dir: str | os.PathLike,
    recipe: Recipe,
    processes: int = 1,
    quiet: bool = False,
) -> tuple[Path, bool]:
    """As `generate_dataset`, with examples of any recipe."""
    if processes < 1:
        raise UserError(f"{processes} processes cannot make anything; use at least 1.")
    if "://" in str(data_dir):
        raise UserError(
            f"Datasets are rendered to a local disk, not to {data_dir}; copy the folder afterwards."
        )
    builder = OclrSyn(data_dir=data_dir, config=config, recipe=recipe)
    directory = Path(builder.data_dir)
    wanted = recipe.settings()
    if directory.exists():
        _check_settings(directory, wanted)
        return directory, False
    unfinished = directory.with_name(directory.name + ".unfinished")
    try:
        _begin(unfinished, wanted)
        shards = list(_shards(builder, unfinished))
        _render_missing(builder, shards, processes, quiet)
        _finish(builder, shards, unfinished, directory)
    except OSError as error:
        raise UserError(
            f"Cannot write the dataset to {unfinished}: {error.strerror or error}; free some space "
            "or choose another data directory, then run the same command again."
        ) from error
    return directory, True


def _begin(unfinished: Path, wanted: dict[str, Any]) -> None:
    """Makes the unfinished folder, or checks that the one there was begun with these settings."""
    if (unfinished / _SETTINGS).exists():
        _check_settings(unfinished, wanted)
    else:
        # Without the settings nobody knows what the files hold.
        shutil.rmtree(unfinished, ignore_errors=True)
        with replacing(unfinished / _SETTINGS) as temporary:
            temporary.write_text(json.dumps(wanted))


def _check_settings(directory: Path, wanted: dict[str, Any]) -> None:
    try:
        found = json.loads((directory / _SETTINGS).read_text())
    except (OSError, ValueError):
        found = {}
    different = sorted(key for key in found.keys() | wanted if found.get(key) != wanted.get(key))
    if different:
        raise UserError(
            f"{directory} holds a dataset made with another {', '.join(different)}; remove it or "
            "choose another data directory."
        )


def _shards(builder: OclrSyn, folder: Path) -> Iterator[_Shard]:
    config = builder.builder_config
    for split in config.splits:
        template = _filename_template(builder, split, folder)
        ranges = shard_ranges(config, split)
        for number, indices in enumerate(ranges):
            path = template.sharded_filepath(shard_index=number, num_shards=len(ranges))
            yield _Shard(Path(path), split, indices)


def _filename_template(builder: OclrSyn, split: str, folder: Path) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=builder.name, split=split, filetype_suffix=FILE_FORMAT
    )


def _render_missing(builder: OclrSyn, shards: list[_Shard], processes: int, quiet: bool) -> None:
    """Renders the files that are not there yet, with a progress bar."""
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


def _render_shards(builder: OclrSyn, shards: list[_Shard], processes: int) -> Iterator[int]:
    """Renders files in parallel; yields the number of sequences rendered, a few times a second."""
    # Spawned, because forking a process that runs threads (jax, OpenCV) can hang.
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
                "A rendering process was killed, perhaps for want of memory; run the same command "
                "again with fewer processes, and it goes on where it stopped."
            ) from error
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _start_process(rendered, stop) -> None:
    global _rendered, _stop
    _rendered, _stop = rendered, stop
    # The parent decides what Ctrl-C means, and nobody is left over when it is killed.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # One thread a process: the processes already use every core.
    cv2.setNumThreads(1)


def _exit_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


def _write_shard(recipe: Recipe, scene: SceneConfig, shard: _Shard) -> None:
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


def _finish(builder: OclrSyn, shards: list[_Shard], unfinished: Path, directory: Path) -> None:
    """Adds what TFDS needs to read the files, and gives the folder its name."""
    infos = []
    for split in builder.builder_config.splits:
        files = [shard for shard in shards if shard.split == split]
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(shard.indices) for shard in files],
                num_bytes=sum(shard.path.stat().st_size for shard in files),
                filename_template=_filename_template(builder, split, directory),
            )
        )
    builder.info.set_splits(tfds.core.splits.SplitDict(infos))
    builder.info.write_to_directory(unfinished)
    write_card(unfinished)
    for leftover in unfinished.glob(".*"):  # of processes that were killed while they wrote
        leftover.unlink()
    os.rename(unfinished, directory)

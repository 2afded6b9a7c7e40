"""Batches of flow and masks, from a generated dataset or rendered as they are needed, by grain.

The batch of a step is a function of (dataset, settings, seed, step) alone: neither the number of
workers nor an interruption changes it, and to resume a training is to read on from its step. Each
of several processes makes its own part of the batch; how many there are does not change it either.
"""

import multiprocessing
import os
import signal
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from functools import cached_property, partial, reduce
from itertools import accumulate
from operator import getitem
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import flags
from etils import epath

from data_pipelines.builders.examples import encode_flow
from data_pipelines.builders.oclr_syn import Rendering
from data_pipelines.loaders.clip_transforms import (
    Augmentation,
    Clip,
    augment,
    drop_unseen,
    resize_clip,
)
from oclr_jax.errors import UserError
from oclr_jax.flow.gaps import gap_flows
from oclr_jax.flow.resize import resize_flow
from oclr_jax.types import AnyBatch

# What the loader reads of an example for each kind of flow: (gap +1, gap -1).
_FLOW_FIELDS = {
    "estimated": ("estimated_forward_flow", "estimated_backward_flow"),
    "exact": ("forward_flow", "backward_flow"),
}
_GAPS = (1, -1)  # the gaps that are stored, in the order of a clip's channels

# Passes over the data that no training reaches. Without a number grain counts to the largest
# integer there is, and batches of one clip overflow.
_ENDLESS = 10**9

# Batches that each worker, or this process without workers, keeps ready.
_READY = 2


def dataset_directory(data_dir: str | os.PathLike, config: str) -> epath.Path:
    """The newest version of `oclr_syn/<config>` below a TFDS data directory.

    Raises UserError where there is none.
    """
    folder = epath.Path(data_dir) / "oclr_syn" / config
    versions = [path for path in folder.glob("*") if tfds.core.Version.is_valid(path.name)]
    if not versions:
        begun = " (one was begun and not finished)" if any(folder.glob("*.unfinished")) else ""
        raise UserError(
            f"There is no dataset oclr_syn/{config} in {data_dir}{begun}; make it with "
            f"`python launch/generate.py --config {config} --data_dir {data_dir}`."
        )
    return max(versions, key=lambda path: tfds.core.Version(path.name))


def clip_fields(flow: str) -> dict[str, str]:
    """What a clip needs of an example: fields by the names that `Sequences` gives them.

    forward, backward [t h w 2] float16; amodal [t h w k], segmentations [t h w 1] uint8. Raises
    UserError where there is no such flow.
    """
    if flow not in _FLOW_FIELDS:
        raise UserError(f"There is no {flow} flow; choose one of {', '.join(_FLOW_FIELDS)}.")
    forward, backward = _FLOW_FIELDS[flow]
    return {
        "forward": forward,
        "backward": backward,
        "amodal": "amodal_segmentations",
        "segmentations": "video/segmentations",
    }


class Sequences:
    """The stored sequences of a split by index, only some fields decoded.

    Sent to a worker process, it opens the files there anew.
    """

    def __init__(self, directory: str | os.PathLike, split: str, fields: dict[str, str]):
        """`fields` are those of an example to decode, by the names that they get; a slash leads
        into a field of several."""
        self.directory, self.split, self.fields = os.fspath(directory), split, fields

    def __len__(self) -> int:
        return len(self._opened[0])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The fields, each with a leading axis over time."""
        records, features = self._opened
        try:
            example = features.deserialize_example_np(records[index])
        except Exception as error:  # checksums of the files and the decoders each raise their own
            raise _broken(self.directory, f"sequence {index} of {self.split}") from error
        return {
            name: np.asarray(reduce(getitem, _path(field), example))
            for name, field in self.fields.items()
        }

    def __getstate__(self) -> dict[str, Any]:
        return {"directory": self.directory, "split": self.split, "fields": self.fields}

    @cached_property
    def _opened(self):
        builder = tfds.builder_from_directory(self.directory)
        records = builder.as_data_source(
            self.split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        # A subset of the fields by hand, because `PartialDecoding` needs TensorFlow.
        wanted: dict[str, Any] = {}
        for *rooms, name in map(_path, self.fields.values()):
            known, place = builder.info.features, wanted
            for room in rooms:
                known, place = known[room], place.setdefault(room, {})
            place[name] = known[name]
        return records, tfds.features.FeaturesDict(wanted)


def _path(field: str) -> list[str]:
    return field.split("/")


class JoinedSequences:
    """The sequences of several datasets in a row, as `Sequences` gives those of one."""

    def __init__(self, parts: list[Sequences]):
        self.parts = parts
        self.directory = " and ".join(part.directory for part in parts)
        self.split = parts[0].split
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """As `Sequences`."""
        part = bisect_right(self._ends, index)
        return self.parts[part][index - (self._ends[part - 1] if part else 0)]


class OnlineSequences:
    """Sequences that are rendered when they are asked for, no two alike; as `Sequences` gives them.

    Each is a function of the recipe and its index alone.
    """

    def __init__(self, recipe: Rendering, flow: str):
        self.recipe, self.flow = recipe, flow

    def __len__(self) -> int:
        return _ENDLESS

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """As `Sequences`, in the precision in which flow is stored."""
        sample = self.recipe.sample("online", index)
        forward, backward = sample["forward_flow"], sample["backward_flow"]
        if self.flow == "estimated":
            estimated = gap_flows(sample["video"], _GAPS, self.recipe.estimator)
            estimated = resize_flow(estimated, *forward.shape[1:3])
            forward, backward = estimated[..., :2], estimated[..., 2:]
        return {
            "forward": encode_flow(forward),
            "backward": encode_flow(backward),
            "amodal": sample["amodal"],
            "segmentations": sample["segmentations"][..., None],
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # In a worker process, of which there are as many as there are cores to use.
        cv2.setNumThreads(1)


class Loader:
    """Batches by step: `loader[step]`, or in a row from any step with `iterate`.

    settings: the dataset's metadata: data_version, flow (the estimator's settings), seed, scene.
    """

    def __init__(self, dataset, order, settings: dict[str, Any], batches: int, workers: int):
        """`dataset` gives batches by step, `order` the numbers of the sequences in them."""
        self._dataset = dataset
        self._order = order
        self.settings = settings
        self._batches = batches
        self._workers = workers

    def __len__(self) -> int:
        """Batches in one pass over the split."""
        return self._batches

    def __getitem__(self, step: int) -> AnyBatch:
        """The batch of a step."""
        return self._dataset[step]

    def __iter__(self) -> Iterator[AnyBatch]:
        return self.iterate()

    def samples(self, step: int) -> str:
        """The sequences that the batch of a step shows clips of, in words; nothing is read."""
        return f"sequences {', '.join(map(str, self._order[step]))}"

    def iterate(self, start_step: int = 0) -> Iterator[AnyBatch]:
        """Yields the batches from a step on, made ahead of time; endless in training.

        Batches are made by worker processes, or by a thread of this process where there are none;
        `close()` ends them.

        Raises:
          UserError: a sequence is broken, or a worker process died.
        """
        import grain

        ahead = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_READY)
        dataset = self._dataset[start_step:].to_iter_dataset(ahead)
        if self._workers:
            # grain's workers read absl's flags, which nobody parses outside of an absl app.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=_READY),
                _live_as_long_as_parent,
            )
        batches = iter(dataset)
        try:
            yield from batches
        except RuntimeError as error:
            if "Worker process" not in str(error):
                raise
            raise UserError(
                f"A worker process of the data died ({str(error).split('. ')[0]}), most often for "
                "lack of memory; give the same command again, with fewer data.workers if it does."
            ) from error
        finally:
            batches.close()


def _live_as_long_as_parent(index: int, count: int) -> None:
    """In a worker process: it outlives the signals that a whole group gets, but not its parent.

    Ctrl-C and preemption go to all processes, and the training needs its batches until it has
    saved; a training that was killed cannot end its workers any more.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def follow(parent):
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    threading.Thread(target=follow, args=(parent,), daemon=True).start()


def make_loader(
    directory: str | os.PathLike,
    split: str,
    *,
    frames: int,
    batch_size: int,
    height: int,
    width: int,
    train: bool,
    seed: int = 0,
    gaps: tuple[int, ...] = _GAPS,
    flow: str = "estimated",
    stride: int = 1,
    augmentation: Augmentation | None = None,
    beside: tuple[str | os.PathLike, ...] = (),
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """Opens a split of a generated dataset as batches.

    In training, sequences are shuffled anew in every epoch, clips start anywhere in their sequence
    and are varied, and batches never end. Otherwise each sequence comes once, in its order, from
    its first frame, as it is; the last batch may be smaller. Every clip shows an object.

    Args:
      directory: what `dataset_directory` gives.
      split: "train", "validation", or a TFDS slice such as "train[:100]".
      frames: length T of a clip.
      batch_size: clips in a batch of one process.
      height, width: model grid; stored clips are brought to it.
      train: see above.
      seed: of shuffling and variation.
      gaps: of the flow, in the order of the batch's channels; 1 and -1 are stored.
      flow: "estimated" by the dataset's estimator, or "exact".
      stride: frames of training clips are at most so many frames apart; flow stays that of the
        stored sequence, from each frame to its neighbours there.
      augmentation: how training clips are varied (None: the defaults).
      beside: folders of further datasets, whose sequences are read as if they were in the first.
      workers: processes that make batches; 0 makes them in this process.
      process_index, process_count: which process of how many reads. Their batches of a step, in
        their order, are what one process reads in batches of all their clips.

    Returns:
      The loader; its batches are `oclr_jax.types.Batch`.

    Raises:
      UserError: no such dataset or split, it is broken, too short or too small, or the flow of
        those beside it was estimated otherwise.
    """
    sequences, settings = open_sequences(directory, split, clip_fields(flow))
    _check_clips(f"The dataset {directory}", frames, settings["scene"]["frames"], gaps)
    _check_stride(stride)
    if beside:
        sequences, settings = _join(sequences, settings, beside, frames, gaps, flow)
    cut = {"frames": frames, "grid": (height, width), "gaps": tuple(gaps)}
    if train:
        varied = {"stride": stride, "augmentation": augmentation or Augmentation()}
        make_clip = partial(training_clip, **varied, **cut)
    else:
        make_clip = partial(validation_clip, **cut)
    return make_batches(
        sequences,
        settings,
        make_clip,
        train=train,
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        process_index=process_index,
        process_count=process_count,
    )


def _join(
    first: Sequences,
    settings: dict[str, Any],
    beside: tuple[str | os.PathLike, ...],
    frames: int,
    gaps: tuple[int, ...],
    flow: str,
) -> tuple[JoinedSequences, dict[str, Any]]:
    """A dataset with those beside it, and its metadata with the versions of all."""
    parts, versions = [first], [settings["data_version"]]
    for directory in beside:
        part, its = open_sequences(directory, first.split, clip_fields(flow))
        _check_clips(f"The dataset {directory}", frames, its["scene"]["frames"], gaps)
        if its["flow"] != settings["flow"]:
            raise UserError(
                f"The flow of {directory} was estimated with {its['flow']}, that of "
                f"{first.directory} with {settings['flow']}; join datasets of one estimator."
            )
        parts.append(part)
        versions.append(its["data_version"])
    return JoinedSequences(parts), {**settings, "data_version": " and ".join(versions)}


def make_batches(
    sequences: Sequences | JoinedSequences,
    settings: dict[str, Any],
    make: Callable[..., Any],
    *,
    train: bool,
    batch_size: int,
    seed: int,
    workers: int,
    process_index: int,
    process_count: int,
) -> Loader:
    """Batches of what `make` makes of stored sequences.

    Args:
      sequences, settings: as `open_sequences` gives them.
      make: of a sequence, and in training of a random generator, one example of a batch.
      train, batch_size, seed, workers, process_index, process_count: as `make_loader`.

    Raises:
      UserError: fewer sequences than a training batch takes.
    """
    # Not at the top: grain loads jax where it is installed, and rendering should not.
    import grain

    examples = batch_size * process_count
    if train and len(sequences) < examples:
        raise UserError(
            f"The split {sequences.split} of {sequences.directory} has {len(sequences)} sequences, "
            f"too few for batches of {examples}; use smaller batches."
        )
    dataset = grain.MapDataset.source(sequences).seed(seed)
    # Drawn as the sequences themselves are.
    order = grain.MapDataset.range(len(sequences)).seed(seed)
    if train:
        dataset = dataset.shuffle().repeat(_ENDLESS).random_map(make)
        order = order.shuffle().repeat(_ENDLESS)
        batches = len(sequences) // examples
    else:
        dataset = dataset.map(make)
        own = range(process_index, -(-len(sequences) // batch_size), process_count)
        batches = len(own)
    dataset = _batched(dataset, batch_size, process_index, process_count)
    order = _batched(order, batch_size, process_index, process_count)
    return Loader(dataset, order, settings, batches, workers)


def make_online_loader(
    recipe: Rendering,
    *,
    frames: int,
    batch_size: int,
    height: int,
    width: int,
    seed: int = 0,
    gaps: tuple[int, ...] = _GAPS,
    flow: str = "estimated",
    stride: int = 1,
    augmentation: Augmentation | None = None,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """Opens an endless stream of training clips that the loader's workers render.

    No sequence comes twice. Everything else is as with `make_loader` in training: the batch of a
    step depends on the recipe, the settings and the step alone.

    Args:
      recipe: which scenes, from which seed, with which estimator and sources.
      frames, batch_size, height, width, seed, gaps, flow, stride, augmentation, workers,
        process_index, process_count: as `make_loader`.

    Raises:
      UserError: the clips do not fit the recipe's sequences.
    """
    import grain

    clip_fields(flow)  # refuses a flow that there is not
    _check_clips(f"The online data {recipe.config.name}", frames, recipe.config.scene.frames, gaps)
    _check_stride(stride)
    make_clip = partial(
        training_clip,
        frames=frames,
        grid=(height, width),
        gaps=tuple(gaps),
        stride=stride,
        augmentation=augmentation or Augmentation(),
    )
    sequences = grain.MapDataset.source(OnlineSequences(recipe, flow)).seed(seed)
    clips = sequences.random_map(make_clip)
    dataset = _batched(clips, batch_size, process_index, process_count)
    order = grain.MapDataset.range(len(sequences))
    order = _batched(order, batch_size, process_index, process_count)
    batches = _ENDLESS // (batch_size * process_count)
    return Loader(dataset, order, recipe.settings(), batches, workers)


def _batched(clips, batch_size: int, process_index: int, process_count: int):
    """The batches of one process; only its own clips are ever read.

    Shuffling and variation come before this and are those of a clip's place in the whole data.
    Batched before the split among workers: only so is a batch the same for any number of them.
    """
    return clips.batch(batch_size)[process_index::process_count]


def _check_clips(what: str, frames: int, stored: int, gaps: tuple[int, ...]) -> None:
    if not 1 <= frames <= stored:
        raise UserError(
            f"{what} has sequences of {stored} frames, from which clips of {frames} cannot be cut; "
            f"ask for 1 to {stored} frames."
        )
    if not set(gaps) <= set(_GAPS) or not gaps:
        raise UserError(
            f"{what} holds flow at the gaps 1 and -1, not at all of {tuple(gaps)}; use those."
        )


def _check_stride(stride: int) -> None:
    if stride < 1:
        raise UserError(f"Frames cannot be {stride} apart; ask for a stride of 1 or more.")


def open_sequences(
    directory: str | os.PathLike, split: str, fields: dict[str, str]
) -> tuple[Sequences, dict[str, Any]]:
    """The sequences of a split, and the dataset's metadata.

    Raises:
      UserError: no such dataset or split, it is broken or empty, or has no exact flow where
        `fields` ask for it.
    """
    try:
        info = tfds.builder_from_directory(directory).info
        # Version 1 of the data did not say; all of it was rendered.
        names, settings = ", ".join(info.splits), {"exact_flow": True, **info.metadata}
    except Exception as error:  # TFDS has one for each file that may be missing or broken
        raise UserError(
            f"{directory} is not a dataset that launch/generate.py made; name the folder with its "
            "dataset_info.json."
        ) from error
    for part in info.splits.values():
        files = [path for path in part.filepaths if path.exists()]
        if sum(path.stat().length for path in files) != part.num_bytes:
            raise _broken(directory, f"the files of {part.name}")
    if "forward_flow" in fields.values() and not settings["exact_flow"]:
        raise UserError(
            f"The dataset {directory} was imported and has no exact flow; use estimated."
        )
    sequences = Sequences(directory, split, fields)
    try:
        count = len(sequences)
    except ValueError as error:
        raise UserError(
            f"{directory} has no split {split}; choose one of {names}, or a part of it such as "
            f"{names.split(',')[0]}[:10]."
        ) from error
    if not count:
        raise UserError(f"The split {split} of {directory} is empty; choose another.")
    return sequences, settings


def _broken(directory: str | os.PathLike, what: str) -> UserError:
    return UserError(f"{directory} is broken: {what} cannot be read; remove it and make it again.")


def validation_clip(
    stored: dict[str, np.ndarray], *, frames: int, grid: tuple[int, int], gaps: tuple[int, ...]
) -> Clip:
    """The beginning of a stored sequence as it is, on the grid (height, width)."""
    clip = resize_clip(_cut(stored, slice(frames)), *grid)
    return _select_gaps(drop_unseen(clip), gaps)


def training_clip(
    stored: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    frames: int,
    grid: tuple[int, int],
    gaps: tuple[int, ...],
    stride: int,
    augmentation: Augmentation,
) -> Clip:
    """A varied part of a stored sequence that shows an object, on the grid (height, width).

    Its frames are 1 to `stride` frames apart, each as likely as far as the sequence is long enough.
    """
    # Only where an object is visible in some frame of the clip is there something to learn.
    seen = stored["segmentations"].any(axis=(1, 2, 3))
    by_stride = []
    for apart in range(1, stride + 1):
        span = (frames - 1) * apart + 1
        parts = [slice(at, at + span, apart) for at in range(len(seen) - span + 1)]
        by_stride.append([part for part in parts if seen[part].any()])
    usable = [parts for parts in by_stride if parts]
    parts = usable[rng.integers(len(usable))]
    part = parts[rng.integers(len(parts))]
    clip = resize_clip(_cut(stored, part), *grid)
    return _select_gaps(augment(clip, rng, augmentation), gaps)


def _cut(stored: dict[str, np.ndarray], part: slice) -> Clip:
    """Frames of a stored sequence as a clip on the stored grid."""
    amodal = stored["amodal"][part]
    layers = np.arange(1, amodal.shape[-1] + 1, dtype=np.uint8)
    flow = np.concatenate(
        [stored["forward"][part], stored["backward"][part]], axis=-1, dtype=np.float32
    )
    return Clip(
        flow=flow,
        amodal=amodal,
        modal=(stored["segmentations"][part] == layers).astype(np.uint8),
    )


def _select_gaps(clip: Clip, gaps: tuple[int, ...]) -> Clip:
    if gaps == _GAPS:
        return clip
    channels = [2 * _GAPS.index(gap) + axis for gap in gaps for axis in (0, 1)]
    return Clip(flow=clip["flow"][..., channels], amodal=clip["amodal"], modal=clip["modal"])

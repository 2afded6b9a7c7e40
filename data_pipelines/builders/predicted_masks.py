"""Masks that a flow model predicts for a generated dataset, stored inside the dataset's folder.

They form a TFDS dataset of their own, `DATASET/predicted_masks/<name>`, with one example per
sequence of the dataset, in the same splits and order. So they are read at random like the dataset,
and a slice such as "train[:100]" names the same sequences in both.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from jaxtyping import Float32
from tqdm import tqdm

from data_pipelines.builders.records import FILE_FORMAT, RecordWriter
from data_pipelines.builders.staging import (
    Shard,
    add_metadata,
    check_finished,
    list_shards,
    publish,
    start,
    unfinished_directory,
)
from data_pipelines.loaders.sequences import Sequences, open_dataset
from oclr_jax.errors import UserError
from oclr_jax.files import replacing

# Version of the format; stored in the settings.
FORMAT_VERSION = 1

_FLOW = ("estimated_forward_flow", "estimated_backward_flow")

# Estimated flow (u, v) at gaps +1 and -1, pixels of the stored grid -> amodal probabilities in 0..1
# on the model grid, and the pseudo-depth of each layer in each frame, lowest in front.
Predict = Callable[
    [Float32[np.ndarray, "t h w 4"]],
    tuple[Float32[np.ndarray, "t H W k"], Float32[np.ndarray, "t k"]],
]


def predicted_masks_directory(directory: str | os.PathLike, name: str) -> epath.Path:
    """The folder of the predicted masks `name` of a dataset."""
    return epath.Path(directory) / "predicted_masks" / name


def dataset_identity(info: tfds.core.DatasetInfo) -> dict[str, Any]:
    """Name, configuration and version of a dataset, and a digest of its settings and file sizes."""
    splits = {
        name: [list(split.shard_lengths), split.num_bytes] for name, split in info.splits.items()
    }
    contents = json.dumps([dict(info.metadata or {}), splits], sort_keys=True)
    return {
        "name": info.name,
        "config": info.config_name,
        "version": str(info.version),
        "digest": hashlib.sha256(contents.encode()).hexdigest()[:16],
    }


def predicted_features(height: int, width: int, layers: int) -> tfds.features.FeaturesDict:
    """The documented features of an example: K layers on the grid of the model."""
    return tfds.features.FeaturesDict(
        {
            "video_name": tfds.features.Text(doc="name of the sequence in the dataset"),
            # Raw bytes: the record is compressed anyway, and decoding is a view.
            "probability": tfds.features.Tensor(
                shape=(None, height, width, layers),
                dtype=np.uint8,
                encoding="bytes",
                doc="amodal foreground probability x 255 of every layer [T h w K], on the grid of "
                "the model; the layers are in no particular order, the same in all frames",
            ),
            "order": tfds.features.Tensor(
                shape=(None, layers),
                dtype=np.float32,
                encoding="bytes",
                doc="pseudo-depth of every layer in every frame [T K], lowest in front",
            ),
        }
    )


def open_flow_dataset(directory: str | os.PathLike) -> tfds.core.DatasetInfo:
    """The metadata of a dataset with estimated flow.

    Raises:
      UserError: there is no such dataset, or its files are damaged.
    """
    info = open_dataset(directory)
    if not set(_FLOW) <= set(info.features) or not info.metadata.get("flow"):
        raise UserError(
            f"The dataset {os.fspath(directory)} has no estimated flow; name one that "
            "launch/generate.py or launch/build_benchmark.py made."
        )
    return info


def write_predicted_masks(
    directory: str | os.PathLike,
    name: str,
    predict: Predict,
    shape: tuple[int, int, int],
    settings: dict[str, Any],
    *,
    sequences_per_shard: int = 16,
    quiet: bool = False,
) -> tuple[Path, bool]:
    """Runs a model on every sequence of a dataset and stores what it predicts.

    Existing masks with the same settings are left unchanged, unfinished ones are resumed.

    Args:
      directory: of the dataset, on a local disk: of `oclr_syn`, or a benchmark that was built with
        launch/build_benchmark.py.
      name: of the masks.
      predict: the model; see `Predict`.
      shape: (height, width, layers) of what it predicts.
      settings: everything else that the predictions depend on, as JSON values; stored with them.
      sequences_per_shard: an interrupted run repeats at most one shard.
      quiet: no progress bar (there is also none unless standard error is a terminal).

    Returns:
      The folder of the masks, and whether anything was predicted.

    Raises:
      UserError: there is no such dataset, it is damaged, there are masks of this name with other
        settings, or the masks cannot be written.
    """
    if "://" in os.fspath(directory):
        raise UserError(
            f"Masks are written to a local disk, not to {os.fspath(directory)}; predict them for a "
            "local copy of the dataset and copy the folder afterwards."
        )
    info = open_flow_dataset(directory)
    folder = Path(predicted_masks_directory(directory, name))
    settings = json.loads(
        json.dumps(
            {
                **settings,
                "format_version": FORMAT_VERSION,
                "shape": shape,
                "dataset": dataset_identity(info),
                "flow": info.metadata["flow"],
            }
        )
    )
    if folder.exists():
        check_finished(folder, settings)
        return folder, False
    features = predicted_features(*shape)
    try:
        unfinished = start(folder, settings)
        shards = list_shards("predicted_masks", _ranges(info, sequences_per_shard), unfinished)
        _write_missing(directory, shards, predict, features, name, quiet)
        add_metadata(_describe(info, folder, name, features, settings), shards, folder)
        publish(folder)
    except OSError as error:
        raise UserError(
            f"Cannot write masks to {unfinished_directory(folder)}: {error.strerror or error}; "
            "free some space, then run the same command again."
        ) from error
    return folder, True


def _ranges(info: tfds.core.DatasetInfo, size: int) -> dict[str, list[range]]:
    """The sequences of every shard of every split."""
    counts = {split: info.splits[split].num_examples for split in info.splits}
    return {
        split: [range(start, min(start + size, count)) for start in range(0, count, size)]
        for split, count in counts.items()
    }


def _write_missing(
    directory: str | os.PathLike,
    shards: list[Shard],
    predict: Predict,
    features: tfds.features.FeaturesDict,
    name: str,
    quiet: bool,
) -> None:
    """Writes the shards that do not exist yet, with a progress bar."""
    missing = [shard for shard in shards if not shard.path.exists()]
    total = sum(len(shard.indices) for shard in shards)
    done = total - sum(len(shard.indices) for shard in missing)
    hidden = True if quiet else None
    with tqdm(total=total, initial=done, desc=name, unit="seq", disable=hidden) as bar:
        for shard in missing:
            with replacing(shard.path) as temporary:
                records = (
                    (index, features.serialize_example(example))
                    for index, example in _predict_shard(directory, shard, predict, bar)
                )
                RecordWriter().write(temporary, records)


def _predict_shard(
    directory: str | os.PathLike, shard: Shard, predict: Predict, bar: tqdm
) -> Iterator[tuple[int, dict[str, Any]]]:
    fields = {"name": "metadata/video_name", "forward": _FLOW[0], "backward": _FLOW[1]}
    sequences = Sequences(directory, shard.split, fields)
    for index in shard.indices:
        stored = sequences[index]
        flow = np.concatenate([stored["forward"], stored["backward"]], axis=-1, dtype=np.float32)
        probability, order = predict(flow)
        yield (
            index,
            {
                "video_name": stored["name"].item(),
                "probability": np.rint(probability * 255).astype(np.uint8),
                "order": order,
            },
        )
        bar.update()


def _describe(
    info: tfds.core.DatasetInfo,
    folder: Path,
    name: str,
    features: tfds.features.FeaturesDict,
    settings: dict[str, Any],
) -> tfds.core.DatasetInfo:
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="predicted_masks",
        version=info.version,
        data_dir=os.fspath(folder),
        module_name=__name__,
        config_name=name,
    )
    described = tfds.core.DatasetInfo(
        builder=identity,
        description=f"Amodal masks that {name} predicts from the estimated flow of {info.name}.",
        features=features,
        metadata=tfds.core.MetadataDict(settings),
    )
    described.set_file_format(FILE_FORMAT)
    return described

"""Datasets that are written shard by shard and can be resumed.

Finished shards collect in a folder `<name>.unfinished`, beside the settings of the dataset. When
all shards are there, the metadata are added and the folder gets its final name.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from data_pipelines.builders.records import FILE_FORMAT
from oclr_jax.errors import UserError
from oclr_jax.files import replacing

SETTINGS_FILE = "metadata.json"  # TFDS's name for it
# Settings that the bytes of a dataset depend on only while it is being written.
_WHILE_WRITING = ("opencv",)


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a dataset.

    path: of the file, in the unfinished folder.
    split: name of the split.
    indices: of the sequences in the file.
    """

    path: Path
    split: str
    indices: range


def unfinished_directory(directory: Path | epath.Path) -> Path | epath.Path:
    """The folder in which the shards of a dataset collect."""
    return directory.with_name(directory.name + ".unfinished")


def start(directory: Path, settings: dict[str, Any]) -> Path:
    """Makes the unfinished folder, or checks that an existing one has these settings.

    Args:
      directory: final folder of the dataset.
      settings: everything that its bytes depend on, as JSON values.

    Returns:
      The unfinished folder.

    Raises:
      UserError: the folder was started with other settings, or cannot be written.
    """
    unfinished = unfinished_directory(directory)
    if (unfinished / SETTINGS_FILE).exists():
        _check_opencv(unfinished, settings)
        _check_equal(unfinished, _read_settings(unfinished), settings)
    else:
        # Files of unknown settings are of no use.
        shutil.rmtree(unfinished, ignore_errors=True)
        with replacing(unfinished / SETTINGS_FILE) as temporary:
            temporary.write_text(json.dumps(settings))
    return unfinished


def check_finished(directory: Path, settings: dict[str, Any]) -> None:
    """Checks that a finished dataset was written with these settings.

    Raises:
      UserError: it was not.
    """

    def lasting(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key not in _WHILE_WRITING}

    _check_equal(directory, lasting(_read_settings(directory)), lasting(settings))


def list_shards(name: str, splits: dict[str, list[range]], folder: Path) -> list[Shard]:
    """The shards of a dataset, whether they are there or not.

    Args:
      name: of the dataset; file names begin with it.
      splits: sequence indices of every shard, by split.
      folder: where the shards collect.
    """
    shards = []
    for split, ranges in splits.items():
        template = _filename_template(name, split, folder)
        for number, indices in enumerate(ranges):
            path = template.sharded_filepath(shard_index=number, num_shards=len(ranges))
            shards.append(Shard(Path(path), split, indices))
    return shards


def add_metadata(info: tfds.core.DatasetInfo, shards: list[Shard], directory: Path) -> None:
    """Writes what TFDS needs to read the shards to the unfinished folder.

    Args:
      info: name, features and metadata of the dataset.
      shards: all of its files.
      directory: final folder of the dataset.
    """
    splits = []
    for split in dict.fromkeys(shard.split for shard in shards):
        files = [shard for shard in shards if shard.split == split]
        splits.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[len(shard.indices) for shard in files],
                num_bytes=sum(shard.path.stat().st_size for shard in files),
                filename_template=_filename_template(info.name, split, directory),
            )
        )
    info.set_splits(tfds.core.splits.SplitDict(splits))
    info.write_to_directory(unfinished_directory(directory))


def publish(directory: Path) -> None:
    """Gives the unfinished folder of a dataset its final name."""
    unfinished = unfinished_directory(directory)
    for leftover in unfinished.glob(".*"):  # temporary files of killed processes
        leftover.unlink()
    os.rename(unfinished, directory)


def _filename_template(name: str, split: str, folder: Path) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=name, split=split, filetype_suffix=FILE_FORMAT
    )


def _read_settings(directory: Path) -> dict[str, Any]:
    try:
        return json.loads((directory / SETTINGS_FILE).read_text())
    except (OSError, ValueError):
        return {}


def _check_opencv(unfinished: Path, settings: dict[str, Any]) -> None:
    """Other versions of OpenCV render other pixels from the same seed."""
    found, wanted = _read_settings(unfinished).get("opencv"), settings.get("opencv")
    if found != wanted:
        raise UserError(
            f"{unfinished} was started with {f'OpenCV {found}' if found else 'an unknown version'}"
            f"{'' if found else ' of OpenCV'} and this is OpenCV {wanted}; install that version to "
            "resume, or remove the folder to start again."
        )


def _check_equal(directory: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    different = sorted(key for key in found.keys() | wanted if found.get(key) != wanted.get(key))
    if different:
        raise UserError(
            f"{directory} was written with other settings ({', '.join(different)}); remove it or "
            "choose another folder."
        )

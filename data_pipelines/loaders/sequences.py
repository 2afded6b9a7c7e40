"""Opening generated datasets: stored sequences by index, with only the fields that are needed."""

import os
from bisect import bisect_right
from functools import cached_property, reduce
from itertools import accumulate
from operator import getitem
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from oclr_jax.errors import UserError

# Datasets whose metadata have the sizes of files; TFDS records those of serialized examples.
_FILE_SIZES = ("oclr_syn", "predicted_masks")


def dataset_directory(data_dir: str | os.PathLike, config: str) -> epath.Path:
    """Returns the newest version of `oclr_syn/<config>` in a TFDS data directory.

    Raises:
      UserError: there is none.
    """
    folder = epath.Path(data_dir) / "oclr_syn" / config
    versions = [path for path in folder.glob("*") if tfds.core.Version.is_valid(path.name)]
    if not versions:
        started = " (its generation was not finished)" if any(folder.glob("*.unfinished")) else ""
        raise UserError(
            f"There is no dataset oclr_syn/{config} in {data_dir}{started}; generate it with "
            f"`python launch/generate.py --config {config} --data_dir {data_dir}`."
        )
    return max(versions, key=lambda path: tfds.core.Version(path.name))


class Sequences:
    """The stored sequences of a split by index; only the requested fields are decoded.

    Pickled to a worker process, it opens the files again there.
    """

    def __init__(self, directory: str | os.PathLike, split: str, fields: dict[str, str]):
        """Opens nothing yet.

        Args:
          directory: a TFDS dataset, the folder with its dataset_info.json.
          split: name of a split, or a TFDS slice such as "train[:100]".
          fields: maps the keys of the returned dicts to fields of the stored example; "a/b" is
            field b inside field a.
        """
        self.directory, self.split, self.fields = os.fspath(directory), split, fields

    def __len__(self) -> int:
        return len(self._opened[0])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """The requested fields of a sequence.

        Raises:
          UserError: the record cannot be read.
        """
        records, features = self._opened
        try:
            example = features.deserialize_example_np(records[index])
        except Exception as error:  # checksums and decoders each raise their own type
            raise damaged_dataset(
                self.directory, f"sequence {index} of {self.split} cannot be read"
            ) from error
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
        # The subset of fields is selected by hand: `PartialDecoding` needs TensorFlow.
        wanted: dict[str, Any] = {}
        for *parents, name in map(_path, self.fields.values()):
            stored, selected = builder.info.features, wanted
            for parent in parents:
                stored, selected = stored[parent], selected.setdefault(parent, {})
            selected[name] = stored[name]
        return records, tfds.features.FeaturesDict(wanted)


def _path(field: str) -> list[str]:
    return field.split("/")


class JoinedSequences:
    """Concatenation of the sequences of several datasets; same interface as `Sequences`."""

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


def open_dataset(directory: str | os.PathLike) -> tfds.core.DatasetInfo:
    """Reads the metadata of a dataset and checks that its files are complete.

    Raises:
      UserError: there is no dataset, or its files are damaged.
    """
    try:
        info = tfds.builder_from_directory(directory).info
        splits = info.splits.values()
        dict(info.metadata)
    except Exception as error:  # TFDS raises a different type for each missing or damaged file
        raise UserError(
            f"{directory} is not a dataset that launch/generate.py made; name the folder with its "
            "dataset_info.json."
        ) from error
    for split in splits:
        files = [path for path in split.filepaths if path.exists()]
        complete = len(files) == len(split.filepaths)
        if info.name in _FILE_SIZES:
            complete = sum(path.stat().length for path in files) == split.num_bytes
        if not complete:
            raise damaged_dataset(directory, f"files of the split {split.name} are missing or cut")
    return info


def open_sequences(
    directory: str | os.PathLike, split: str, fields: dict[str, str]
) -> tuple[Sequences, dict[str, Any]]:
    """Opens a split of a dataset; returns its sequences and the dataset's metadata.

    Args:
      directory, split, fields: as `Sequences`.

    Raises:
      UserError: there is no such dataset or split, the split is empty, files are damaged, or
        `fields` ask for exact flow that the dataset does not have.
    """
    info = open_dataset(directory)
    # Version 1 of the data did not record `exact_flow`; all of it was rendered.
    splits, settings = ", ".join(info.splits), {"exact_flow": True, **info.metadata}
    if "forward_flow" in fields.values() and not settings["exact_flow"]:
        raise UserError(
            f"The dataset {directory} was imported and has no exact flow; use estimated flow."
        )
    sequences = Sequences(directory, split, fields)
    try:
        count = len(sequences)
    except ValueError as error:
        raise UserError(
            f"{directory} has no split {split}; choose one of {splits}, or a slice such as "
            f"{splits.split(',')[0]}[:10]."
        ) from error
    if not count:
        raise UserError(f"The split {split} of {directory} is empty; choose another.")
    return sequences, settings


def damaged_dataset(directory: str | os.PathLike, what: str) -> UserError:
    """The error for a dataset whose files are damaged; `what` is a clause that says which."""
    return UserError(f"{directory} is damaged: {what}; remove it and generate it again.")

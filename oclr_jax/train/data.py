"""The data of a training, as the loop takes it, and errors of reading it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from oclr_jax.errors import UserError
from oclr_jax.types import AnyBatch


class DataError(UserError):
    """The data of a training cannot be read. What was learned before is not affected."""


@dataclass(frozen=True)
class TrainingData:
    """Training and validation batches, and what the exported weights record of them.

    train_batches: takes a step, from 0, and returns this process's part of the batches of that step
      and of all later ones. The position in the data is the step alone, so a resumed training sees
      the batches of an uninterrupted one. The parts of all processes, in their order, are the whole
      batch.
    validation_batches: returns one pass over this process's validation examples, one per batch.
      Process i of n has the examples i, i + n, i + 2n, ...
    metadata: of the training dataset: `data_version`, and what else the task's weights record.
    describe_batch: names the examples in the batch of a step, for error messages.
    """

    train_batches: Callable[[int], Iterable[AnyBatch]]
    validation_batches: Callable[[], Iterable[AnyBatch]]
    metadata: Mapping[str, Any]
    describe_batch: Callable[[int], str] = lambda step: ""


@contextmanager
def naming_read_errors() -> Iterator[None]:
    """Turns errors of reading data inside the block into a `DataError`."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"The data cannot be read ({error}); check the dataset and its disk, and give the same "
            "command again."
        ) from error
    except UserError as error:
        raise DataError(str(error)) from error


def read_batches(batches: Iterable[AnyBatch]) -> Iterator[AnyBatch]:
    """Yields batches; `close()` also ends the worker processes that make them.

    Raises:
      DataError: a batch cannot be read.
    """
    iterator = iter(batches)
    try:
        while True:
            with naming_read_errors():
                try:
                    batch = next(iterator)
                except StopIteration:
                    return
            yield batch
    finally:
        close = getattr(iterator, "close", None)
        if close:
            close()

"""Batches from sequences, with grain.

The batch of a step is a function of (dataset, settings, seed, step) alone. It depends neither on
the number of workers nor on interruptions, so training resumes by reading on from its step. In a
run of several processes each makes its own part of the global batch; the number of processes does
not change the global batch either.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

from absl import flags

from oclr_jax.errors import UserError
from oclr_jax.types import AnyBatch

# Epochs, more than any training runs. Without a number grain counts to the largest integer, and
# batches of one clip overflow.
ENDLESS = 10**9

# Batches that each worker, or this process without workers, prefetches.
_PREFETCH = 2


@runtime_checkable
class SequenceSource(Protocol):
    """Sequences by index, from one split of one or several datasets."""

    directory: str
    split: str

    def __len__(self) -> int:
        """Number of sequences."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The decoded fields of a sequence."""


class Loader:
    """Batches by step: `loader[step]`, or consecutive ones with `iterate`.

    settings: the dataset's metadata: data_version, flow (settings of the estimator), seed, scene.
    """

    def __init__(self, dataset, order, settings: dict[str, Any], batches: int, workers: int):
        """Wraps grain datasets.

        Args:
          dataset: a `grain.MapDataset` of batches.
          order: a `grain.MapDataset` of the sequence indices in each batch.
          settings: the dataset's metadata.
          batches: number of batches in an epoch.
          workers: worker processes; 0 makes batches in this process.
        """
        self._dataset = dataset
        self._order = order
        self.settings = settings
        self._batches = batches
        self._workers = workers

    def __len__(self) -> int:
        """Number of batches in one epoch."""
        return self._batches

    def __getitem__(self, step: int) -> AnyBatch:
        """The batch of a step."""
        return self._dataset[step]

    def __iter__(self) -> Iterator[AnyBatch]:
        return self.iterate()

    def samples(self, step: int) -> str:
        """Names the sequences in the batch of a step, for messages; reads no data."""
        return f"sequences {', '.join(map(str, self._order[step]))}"

    def iterate(self, start_step: int = 0) -> Iterator[AnyBatch]:
        """Yields prefetched batches from a step on; endless in training.

        Batches are made by worker processes, or without workers by a thread of this process;
        `close()` on the iterator ends them.

        Raises:
          UserError: a sequence is damaged, or a worker process died.
        """
        import grain

        prefetch = grain.ReadOptions(num_threads=1, prefetch_buffer_size=_PREFETCH)
        dataset = self._dataset[start_step:].to_iter_dataset(prefetch)
        if self._workers:
            # grain's workers read absl flags, which only an absl app parses.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=_PREFETCH),
                _live_as_long_as_parent,
            )
        batches = iter(dataset)
        try:
            yield from batches
        except RuntimeError as error:
            if "Worker process" not in str(error):
                raise
            raise UserError(
                f"A data worker process died ({str(error).split('. ')[0]}), most often because "
                "memory ran out; run the same command again, with a smaller data.workers if it "
                "happens again."
            ) from error
        finally:
            batches.close()


def _live_as_long_as_parent(index: int, count: int) -> None:
    """Initializes a worker process: it ignores group signals and exits with its parent.

    Ctrl-C and preemption signal the whole process group, but training needs its batches until it
    has saved. A training process that was killed cannot stop its workers, so they watch it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def follow(parent):
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    threading.Thread(target=follow, args=(parent,), daemon=True).start()


def make_batches(
    sequences: SequenceSource,
    settings: dict[str, Any],
    make_example: Callable[..., Any],
    *,
    train: bool,
    batch_size: int,
    seed: int = 0,
    workers: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Loader:
    """Batches of the examples that `make_example` makes from stored sequences.

    Args:
      sequences, settings: as `open_sequences` returns them.
      make_example: makes one example from a sequence; in training it is also given a
        `numpy.random.Generator`.
      train: shuffle in every epoch and never end; otherwise each sequence once, in order.
      batch_size: examples in a batch of one process.
      seed: of shuffling and augmentation.
      workers: processes that make batches; 0 makes them in this process.
      process_index, process_count: this process among all; process p reads the p-th part of each
        global batch. The batches of all processes, concatenated, are what a single process reads
        with the global batch size.

    Raises:
      UserError: a training batch needs more sequences than there are.
    """
    # Not at the top: grain loads jax where it is installed, and rendering should not.
    import grain

    global_batch = batch_size * process_count
    if train and len(sequences) < global_batch:
        raise UserError(
            f"The split {sequences.split} of {sequences.directory} has {len(sequences)} sequences, "
            f"too few for batches of {global_batch}; use smaller batches."
        )
    dataset = grain.MapDataset.source(sequences).seed(seed)
    # Shuffled in the same way as the sequences.
    order = grain.MapDataset.range(len(sequences)).seed(seed)
    if train:
        dataset = dataset.shuffle().repeat(ENDLESS).random_map(make_example)
        order = order.shuffle().repeat(ENDLESS)
        batches = len(sequences) // global_batch
    else:
        dataset = dataset.map(make_example)
        own = range(process_index, -(-len(sequences) // batch_size), process_count)
        batches = len(own)
    dataset = own_batches(dataset, batch_size, process_index, process_count)
    order = own_batches(order, batch_size, process_index, process_count)
    return Loader(dataset, order, settings, batches, workers)


def own_batches(examples, batch_size: int, process_index: int, process_count: int):
    """The batches of one process from a `grain.MapDataset` of examples; reads no other examples.

    Shuffling and augmentation come before this, so they depend on an example's position in the
    whole data. Batching comes before the split among workers: only then is a batch the same for
    any number of them.
    """
    return examples.batch(batch_size)[process_index::process_count]

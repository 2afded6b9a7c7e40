"""Loaders of datasets as the data of a training."""

from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from oclr_jax.train.data import TrainingData


def process_part() -> dict[str, int]:
    """The options of every loader: this process's part of the examples."""
    return {"process_index": jax.process_index(), "process_count": jax.process_count()}


def batching(config: ConfigDict) -> dict[str, int]:
    """The options of a training loader that are fields of every configuration."""
    return {
        "batch_size": config.batch_size // jax.process_count(),
        "seed": config.seed,
        "workers": config.data.workers,
    }


def open_training(make: Callable[..., Any], config: ConfigDict, **options: Any) -> Any:
    """The loader of the generated dataset `data.train`; `make` opens a split of one."""
    from data_pipelines.loaders.sequences import dataset_directory

    directory = dataset_directory(config.data.dir, config.data.train)
    return make(directory, "train", train=True, **batching(config), **options, **process_part())


def open_validation(make: Callable[..., Any], config: ConfigDict, **options: Any) -> Any:
    """The loader of the generated dataset `data.validation`, an example per batch."""
    from data_pipelines.loaders.sequences import dataset_directory

    directory = dataset_directory(config.data.dir, config.data.validation)
    return make(directory, "validation", train=False, batch_size=1, **options, **process_part())


def data_of(training: Any, validation: Any) -> TrainingData:
    """What two loaders read; see `data_pipelines.loaders.batches.Loader`."""
    return TrainingData(
        train_batches=training.iterate,
        validation_batches=validation.iterate,
        metadata=training.settings,
        describe_batch=training.samples,
    )

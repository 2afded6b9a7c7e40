"""Batches of frame pairs: contents, dependence on seed and step alone, rejected options."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSyn
from data_pipelines.loaders.batches import Loader
from data_pipelines.loaders.pair_transforms import PairAugmentation
from data_pipelines.loaders.pairs import make_pair_loader, training_pair
from oclr_jax.errors import UserError
from oclr_jax.flow.dis import DIS

NO_CHANGE = PairAugmentation(
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    noise=0.0,
    scaled=0.0,
    flip_horizontal=0.0,
    flip_vertical=0.0,
    erased=0.0,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    config = next(config for config in OclrSyn.BUILDER_CONFIGS if config.name == "tiny_pairs")
    data_dir = tmp_path_factory.mktemp("pairs")
    return generate_dataset(config, data_dir, DIS(height=64, width=96), processes=1, quiet=True)[0]


def load(directory, split="train", **changes) -> Loader:
    arguments = {"batch_size": 2, "train": True, "crop": (64, 64), "seed": 3}
    return make_pair_loader(directory, split, **{**arguments, **changes})


def assert_same(one, other) -> None:
    assert one.keys() == other.keys() == {"first", "second", "flow", "valid"}
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_training_batches_have_the_documented_shapes(directory):
    loader = load(directory)
    assert len(loader) == 3
    form = {name: (value.shape, value.dtype.name) for name, value in loader[0].items()}
    assert form == {
        "first": ((2, 64, 64, 3), "uint8"),
        "second": ((2, 64, 64, 3), "uint8"),
        "flow": ((2, 64, 64, 2), "float32"),
        "valid": ((2, 64, 64), "bool"),
    }
    assert loader.samples(0).startswith("sequences ")


def test_validation_gives_the_first_two_frames_as_they_are(directory):
    loader = load(directory, "validation", batch_size=1, train=False, crop=None)
    stored = tfds.builder_from_directory(directory).as_data_source("validation")
    assert len(loader) == len(stored)
    for batch, example in zip(loader, stored, strict=True):
        np.testing.assert_array_equal(batch["first"][0], example["video"]["frames"][0])
        np.testing.assert_array_equal(batch["second"][0], example["video"]["frames"][1])
        np.testing.assert_array_equal(batch["flow"][0], example["forward_flow"][0])
        np.testing.assert_array_equal(batch["estimated"][0], example["estimated_forward_flow"][0])
        assert batch["valid"].all()


def test_training_pairs_are_drawn_from_all_frames_in_both_directions():
    count = 4
    numbers = np.arange(count)
    stored = {
        "frames": np.broadcast_to(numbers[:, None, None, None], (count, 8, 8, 3)).astype(np.uint8),
        "forward": np.broadcast_to(1.0 + numbers[:, None, None, None], (count, 8, 8, 2)),
        "backward": np.broadcast_to(-1.0 - numbers[:, None, None, None], (count, 8, 8, 2)),
    }
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        pair = training_pair(stored, rng, crop=(8, 8), augmentation=NO_CHANGE)
        first, second = int(pair["first"][0, 0, 0]), int(pair["second"][0, 0, 0])
        # The flow is that of the first frame, towards the second.
        assert pair["flow"][0, 0, 0] == (second - first) * (1 + first)
        seen.add((first, second))
    assert seen == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2)}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_depends_on_seed_and_step_alone(directory, workers):
    reference = load(directory)
    batches = load(directory, workers=workers).iterate(start_step=2)
    for step, batch in enumerate(islice(batches, 3), start=2):
        assert_same(batch, reference[step])
    batches.close()
    assert (load(directory, seed=4)[0]["first"] != reference[0]["first"]).any()
    assert (reference[3]["first"] != reference[0]["first"]).any()


def test_each_process_reads_its_part_of_the_batch(directory):
    whole = load(directory, batch_size=6)[4]
    parts = [
        load(directory, batch_size=3, process_index=index, process_count=2)[4] for index in range(2)
    ]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_wrong_options_are_rejected(directory, tiny_directory):
    with pytest.raises(UserError, match="flow of 32x48 for frames of 64x96; .* such as flow_pairs"):
        load(tiny_directory)
    with pytest.raises(UserError, match=r"crop of \(72, 64\) is larger"):
        load(directory, crop=(72, 64))
    with pytest.raises(UserError, match="has 6 sequences, too few"):
        load(directory, batch_size=7)

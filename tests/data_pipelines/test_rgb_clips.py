"""RGB clips: aligned fields, dependence on seed and step alone, rejected masks and options."""

import json
from itertools import islice

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.builders.staging import unfinished_directory
from data_pipelines.loaders.batches import Loader
from data_pipelines.loaders.photometric import (
    NO_PHOTOMETRIC_AUGMENTATION,
    PhotometricAugmentation,
)
from data_pipelines.loaders.rgb_clips import (
    NO_RGB_AUGMENTATION,
    RGBAugmentation,
    make_rgb_clip_loader,
    rgb_training_clip,
)
from oclr_jax.errors import UserError
from tests.data_pipelines.conftest import copy_dataset, predict

H, W, T = 32, 48, 4


def load(directory, split="train", **changes) -> Loader:
    arguments = {"frames": T, "batch_size": 2, "height": H, "width": W, "train": True, "seed": 3}
    return make_rgb_clip_loader(directory, split, **{**arguments, "predicted": "motion", **changes})


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_batches_have_the_documented_shapes(masks_directory):
    loader = load(masks_directory, height=16, width=32)
    assert len(loader) == 3
    form = {name: (value.shape, value.dtype.name) for name, value in loader[0].items()}
    layers = ((2, T, 16, 32, 3), "uint8")
    assert form == {
        "rgb": layers,
        "flow": ((2, T, 16, 32, 4), "float32"),
        "amodal": layers,
        "modal": layers,
        "predicted": layers,
        "predicted_order": ((2, T, 3), "float32"),
    }
    assert loader[0]["modal"].any(axis=(1, 2, 3, 4)).all()
    assert loader.settings["predicted_masks"]["weights"] == {"name": "motion"}
    without = load(masks_directory, height=16, width=32, predicted=None)
    assert without[0].keys() == form.keys() - {"predicted", "predicted_order"}
    assert_same(without[0], {name: loader[0][name] for name in without[0]})


def test_validation_gives_each_sequence_as_it_is_stored(masks_directory):
    loader = load(
        masks_directory, train=False, batch_size=4, height=64, width=96, frames=6, flow="exact"
    )
    stored = tfds.builder_from_directory(masks_directory).as_data_source("train")
    clips = [
        {name: value[i] for name, value in batch.items()}
        for batch in loader
        for i in range(len(batch["rgb"]))
    ]
    for clip, example in zip(clips, stored, strict=True):
        np.testing.assert_array_equal(clip["rgb"], np.stack(example["video"]["frames"]))
        flow = np.concatenate([example["forward_flow"], example["backward_flow"]], axis=-1)
        np.testing.assert_allclose(clip["flow"].mean((1, 2)), 2 * flow.mean((1, 2)), atol=0.02)
        np.testing.assert_array_equal(clip["amodal"][:, ::2, ::2], example["amodal_segmentations"])
        seen = example["video"]["segmentations"] == np.arange(1, 4)
        np.testing.assert_array_equal(clip["modal"][:, 1::2, 1::2], seen)
        flows = [example[f"estimated_{way}_flow"] for way in ("forward", "backward")]
        probability, order = predict(np.concatenate(flows, -1).astype(np.float32))
        # Four times the grid on which it was predicted, interpolated twice.
        found = clip["predicted"].reshape(6, 16, 4, 24, 4, 3).mean((2, 4)) / 255
        assert np.abs(found - probability).mean() < 0.03
        np.testing.assert_array_equal(clip["predicted_order"], order)


def moving_square() -> dict[str, np.ndarray]:
    """A stored sequence: a white square goes right and down before a resting black background.

    Masks are on a grid of 40x60, RGB at twice and predicted masks at half of its size.
    """
    frames, height, width = 9, 40, 60
    amodal = np.zeros((frames, height, width, 3), np.uint8)
    flow = np.zeros((frames, height, width, 2), np.float16)
    for t in range(frames):
        box = np.s_[t, 6 + 2 * t : 18 + 2 * t, 4 + 4 * t : 20 + 4 * t]
        amodal[box][..., 0] = 1
        flow[box] = 4, 2
    rgb = 255 * amodal[..., :1].repeat(2, 1).repeat(2, 2).repeat(3, 3)
    return {
        "rgb": rgb,
        "forward": flow,
        "backward": -flow,
        "amodal": amodal,
        "segmentations": amodal[..., :1],
        "predicted": 255 * amodal[:, ::2, ::2, [1, 0, 2]],
        "predicted_order": np.arange(frames)[:, None] + np.zeros(3, np.float32),
    }


@pytest.mark.parametrize(("frames", "stride"), [(1, 1), (3, 1), (3, 4), (9, 1)])
def test_all_fields_change_together(frames, stride):
    always = RGBAugmentation(
        0.5, 0.5, 0.5, zoom=1.0, min_window=0.7, photometric=NO_PHOTOMETRIC_AUGMENTATION
    )
    stored, steps, flipped = moving_square(), set(), set()
    for seed in range(30):
        clip = rgb_training_clip(
            stored,
            np.random.default_rng(seed),
            frames=frames,
            grid=(60, 80),
            stride=stride,
            augmentation=always,
        )
        mask = clip["modal"][..., 0] == 1
        assert mask.any() and len(clip["rgb"]) == frames
        np.testing.assert_array_equal(clip["modal"], clip["amodal"])
        # Pixels at outlines are interpolated; a shift of two pixels would change far more.
        assert (mask != (clip["rgb"][..., 0] > 127)).mean() < 0.015
        assert (mask != (clip["predicted"][..., 1] > 127)).mean() < 0.025
        assert not clip["predicted"][..., [0, 2]].any()
        numbers = clip["predicted_order"][:, 0]
        apart = set(np.diff(numbers))
        assert len(apart) <= 1 and all(1 <= abs(step) <= stride for step in apart)
        steps |= apart
        # The flow leads from the square of one frame to that of the next.
        for t in range(frames - 1):
            rows, columns = np.nonzero(mask[t]), np.nonzero(mask[t + 1])
            inside = [
                axis.min() > 0 and axis.max() < side - 1
                for pair in (rows, columns)
                for axis, side in zip(pair, (60, 80), strict=True)
            ]
            if not all(inside):
                continue
            moved = [b.mean() - a.mean() for a, b in zip(rows, columns, strict=True)]
            apart = abs(numbers[t + 1] - numbers[t])
            u, v = np.median(clip["flow"][t, mask[t], :2], axis=0) * apart
            np.testing.assert_allclose((v, u), moved, atol=1)
            flipped.add((bool(u > 0), bool(v > 0)))
    if frames == 3:
        assert len(flipped) == 4
        assert steps == {step for step in range(-stride, stride + 1) if step}


def test_crops_are_drawn_and_always_show_the_object():
    sizes = set()
    for seed in range(20):
        clip = rgb_training_clip(
            moving_square(),
            np.random.default_rng(seed),
            frames=2,
            grid=(40, 60),
            stride=1,
            augmentation=RGBAugmentation(zoom=1.0, min_window=0.2),
        )
        assert clip["modal"].any()
        sizes.add(int(clip["amodal"].sum()))
    assert len(sizes) > 10


def test_colours_of_training_clips_alone_change(masks_directory):
    grey = RGBAugmentation(photometric=PhotometricAugmentation(grey=1.0, noise=0.0))
    rgb = load(masks_directory, augmentation=grey)[0]["rgb"]
    np.testing.assert_array_equal(rgb, rgb[..., :1].repeat(3, axis=-1))
    assert (load(masks_directory, train=False)[0]["rgb"].std(axis=-1) > 0).any()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_depends_on_seed_and_step_alone(masks_directory, workers):
    reference = load(masks_directory)
    batches = load(masks_directory, workers=workers).iterate(start_step=2)
    for step, batch in enumerate(islice(batches, 2), start=2):
        assert_same(batch, reference[step])
    batches.close()
    assert (load(masks_directory, seed=4)[0]["rgb"] != reference[0]["rgb"]).any()
    assert (reference[3]["rgb"] != reference[0]["rgb"]).any()


def test_each_process_reads_its_part_of_the_batch(masks_directory):
    whole = load(masks_directory, batch_size=6)[4]
    parts = [
        load(masks_directory, batch_size=3, process_index=index, process_count=2)[4]
        for index in range(2)
    ]
    for name, values in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), values)


def test_masks_are_those_of_the_same_sequence(masks_directory):
    """A slice of the split, shuffled: the masks follow the sequences."""
    options = {"frames": 6, "augmentation": NO_RGB_AUGMENTATION, "batch_size": 1}
    loader = load(masks_directory, "train[2:5]", **options)
    for step in range(3):
        clip = {name: value[0] for name, value in loader[step].items()}
        _, order = predict(clip["flow"])
        np.testing.assert_allclose(clip["predicted_order"], order, rtol=1e-5, atol=1e-6)


def test_masks_of_another_dataset_are_rejected(masks_directory, tiny_directory, tmp_path):
    with pytest.raises(UserError, match=r"motion of .* are missing; run .*predict_masks.py .*tiny"):
        load(copy_dataset(tiny_directory, tmp_path / "tiny"))
    directory = copy_dataset(masks_directory, tmp_path / "copy")
    load(directory)
    folder = directory / "predicted_masks" / "motion"
    folder.rename(unfinished_directory(folder))
    with pytest.raises(UserError, match="not finished; run .* again, as it was started"):
        load(directory)
    unfinished_directory(folder).rename(folder)
    shard = next(folder.glob("*train.array_record*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(UserError, match="is damaged"):
        load(directory)
    shard.write_bytes(whole)
    settings = json.loads((directory / "metadata.json").read_text())
    (directory / "metadata.json").write_text(json.dumps({**settings, "seed": 1}))
    with pytest.raises(UserError, match="belong to another version of the dataset"):
        load(directory)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 7}, "sequences of 6 frames"),
        ({"stride": 0}, "must be at least 1"),
        ({"batch_size": 7}, "has 6 sequences, too few"),
        ({"flow": "raft"}, "no raft flow"),
        ({"split": "test"}, "no split test"),
    ],
)
def test_wrong_options_are_rejected(masks_directory, changes, words):
    with pytest.raises(UserError, match=words):
        load(masks_directory, **changes)

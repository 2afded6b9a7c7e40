"""Batches of clips: contents, dependence on seed and step alone, rejected options."""

import dataclasses
import json
import shutil
from itertools import islice

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.builders.oclr_syn import Rendering
from data_pipelines.loaders.batches import Loader
from data_pipelines.loaders.clip_augmentation import NO_AUGMENTATION
from data_pipelines.loaders.clips import clip_fields, make_clip_loader, training_clip
from data_pipelines.loaders.online import OnlineSequences, make_online_loader
from data_pipelines.loaders.sequences import JoinedSequences, Sequences, dataset_directory
from oclr_jax.errors import UserError

H, W, T = 32, 48, 4
SLICES = ("train[:2]", "train[2:3]", "train[3:]")


def load(directory, split="train", **changes) -> Loader:
    arguments = {"frames": T, "batch_size": 2, "height": H, "width": W, "train": True, "seed": 3}
    return make_clip_loader(directory, split, **{**arguments, **changes})


def assert_same(one, other) -> None:
    assert one.keys() == other.keys() == {"flow", "amodal", "modal"}
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def differ(one, other) -> bool:
    return any((one[name] != other[name]).any() for name in one)


@pytest.fixture(scope="module")
def stored(tiny_directory):
    return list(tfds.builder_from_directory(tiny_directory).as_data_source("train"))


def test_training_batches_have_the_documented_shapes(tiny_directory):
    loader = load(tiny_directory)
    assert len(loader) == 3
    batch = loader[0]
    assert {name: value.shape for name, value in batch.items()} == {
        "flow": (2, T, H, W, 4),
        "amodal": (2, T, H, W, 3),
        "modal": (2, T, H, W, 3),
    }
    assert batch["flow"].dtype == np.float32
    assert batch["amodal"].dtype == batch["modal"].dtype == np.uint8
    assert batch["modal"].any(axis=(1, 2, 3, 4)).all()
    assert (batch["modal"] <= batch["amodal"]).all()
    assert loader.settings["flow"]["estimator"] == "dis"


@pytest.mark.parametrize("batch_size", [1, 5])
def test_training_batches_never_end(tiny_directory, batch_size):
    batches = load(tiny_directory, batch_size=batch_size).iterate(10**7)
    assert next(batches)["flow"].shape == (batch_size, T, H, W, 4)
    batches.close()


def test_validation_gives_each_sequence_once_as_it_is(tiny_directory, stored):
    loader = load(tiny_directory, batch_size=4, train=False, flow="exact")
    first, last = list(loader)
    assert len(loader) == 2
    assert len(first["flow"]) == 4 and len(last["flow"]) == 2
    for example, flow, amodal, modal in zip(
        stored,
        [*first["flow"], *last["flow"]],
        [*first["amodal"], *last["amodal"]],
        [*first["modal"], *last["modal"]],
        strict=True,
    ):
        np.testing.assert_array_equal(flow[..., :2], example["forward_flow"][:T])
        np.testing.assert_array_equal(flow[..., 2:], example["backward_flow"][:T])
        segmentations = example["video"]["segmentations"][:T]
        # A layer that is seen only after the clip is empty in it; so compare those seen.
        seen = [k for k in range(3) if (segmentations == k + 1).any()]
        for place, k in enumerate(seen):
            np.testing.assert_array_equal(
                amodal[..., place], example["amodal_segmentations"][:T, ..., k]
            )
            np.testing.assert_array_equal(modal[..., place], segmentations[..., 0] == k + 1)
        assert not amodal[..., len(seen) :].any()


def test_estimated_flow_is_the_default(tiny_directory, stored):
    batch = load(tiny_directory, train=False)[0]
    np.testing.assert_array_equal(
        batch["flow"][0, ..., 2:], stored[0]["estimated_backward_flow"][:T]
    )


def test_gaps_choose_the_channels(tiny_directory):
    both = load(tiny_directory)[0]["flow"]
    np.testing.assert_array_equal(load(tiny_directory, gaps=(1,))[0]["flow"], both[..., :2])
    swapped = load(tiny_directory, gaps=(-1, 1))[0]["flow"]
    np.testing.assert_array_equal(swapped, both[..., [2, 3, 0, 1]])


def test_other_model_grid(tiny_directory):
    large = load(tiny_directory, train=False, flow="exact")[0]
    small = load(tiny_directory, train=False, flow="exact", height=16, width=16)[0]
    assert small["flow"].shape[2:4] == small["modal"].shape[2:4] == (16, 16)
    # Mean motion in shares of the grid's width and height stays.
    mean = large["flow"].mean((0, 1, 2, 3)) / [W, H, W, H]
    np.testing.assert_allclose(small["flow"].mean((0, 1, 2, 3)) / 16, mean, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_depends_on_seed_and_step_alone(tiny_directory, workers):
    reference = load(tiny_directory)
    loader = load(tiny_directory, workers=workers)
    batches = loader.iterate(start_step=2)
    for step, batch in enumerate(islice(batches, 3), start=2):
        assert_same(batch, reference[step])
    batches.close()


@pytest.mark.parametrize("count", [2, 3])
def test_each_process_reads_its_part_of_the_batch_and_no_more(tiny_directory, monkeypatch, count):
    whole = load(tiny_directory, batch_size=6)
    read = []
    stored = Sequences.__getitem__
    for step in (0, 1, 5):
        expected = whole[step]
        monkeypatch.setattr(Sequences, "__getitem__", lambda *a: read.append(a[1]) or stored(*a))
        parts = []
        for index in range(count):
            own = {"process_index": index, "process_count": count}
            parts.append(load(tiny_directory, batch_size=6 // count, **own)[step])
        monkeypatch.undo()
        for name, values in expected.items():
            np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), values)
        assert len(read) == 6
        read.clear()


def test_each_process_validates_on_clips_of_its_own(tiny_directory):
    whole = list(load(tiny_directory, train=False, batch_size=1))
    for count in (2, len(whole) + 1):
        for index in range(count):
            own = {"process_index": index, "process_count": count}
            loader = load(tiny_directory, train=False, batch_size=1, **own)
            parts = list(loader)
            assert len(loader) == len(parts) == len(whole[index::count])
            for part, expected in zip(parts, whole[index::count], strict=True):
                assert_same(part, expected)


def test_an_online_batch_is_the_same_for_any_number_of_processes(recipe):
    parts = [
        online(recipe, batch_size=1, process_index=index, process_count=2)[3] for index in range(2)
    ]
    for name, values in online(recipe)[3].items():
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), values)


def test_other_seeds_and_steps_give_other_batches(tiny_directory):
    loader = load(tiny_directory)
    assert differ(loader[0], load(tiny_directory, seed=4)[0])
    # The same sequences come again in the next epoch, in another order and varied otherwise.
    assert all(differ(loader[0], loader[step]) for step in range(1, 6))


def test_an_epoch_has_every_sequence_and_the_next_another_order(tiny_directory, stored):
    loader = load(tiny_directory, frames=6, augmentation=NO_AUGMENTATION)
    keys = [example["estimated_forward_flow"].astype(np.float32).tobytes() for example in stored]

    def order(epoch: int) -> list[int]:
        batches = [loader[3 * epoch + step] for step in range(3)]
        flows = [flow[..., :2].tobytes() for batch in batches for flow in batch["flow"]]
        return [keys.index(flow) for flow in flows]

    orders = [order(epoch) for epoch in range(3)]
    assert all(sorted(one) == list(range(6)) for one in orders)
    assert len({tuple(one) for one in orders}) == 3


NEIGHBOURS = {(2, 1), (3, 1), (4, 1)}
TWO_APART = {(0, 2), (2, 2), (4, 2)}


@pytest.mark.parametrize(
    ("stride", "parts"),
    [
        (1, NEIGHBOURS),
        (2, NEIGHBOURS | TWO_APART),
        (5, NEIGHBOURS | TWO_APART | {(1, 3), (0, 4)}),
    ],
)
def test_training_clips_are_random_parts_with_a_visible_object(stride, parts):
    frames, stored_frames = 3, 9
    flow = np.arange(stored_frames, dtype=np.float16)[:, None, None, None]
    segmentations = np.zeros((stored_frames, 4, 4, 1), np.uint8)
    segmentations[4, 1, 1] = 1
    stored = {
        "forward": np.broadcast_to(flow, (stored_frames, 4, 4, 2)),
        "backward": np.broadcast_to(flow, (stored_frames, 4, 4, 2)),
        "amodal": (segmentations == [1, 2, 3]).astype(np.uint8),
        "segmentations": segmentations,
    }
    found = set()
    for seed in range(100):
        clip = training_clip(
            stored,
            np.random.default_rng(seed),
            frames=frames,
            grid=(4, 4),
            gaps=(1, -1),
            stride=stride,
            augmentation=NO_AUGMENTATION,
        )
        assert clip["modal"].any()
        numbers = clip["flow"][:, 0, 0, 0].astype(int)
        assert len(numbers) == frames and len(set(np.diff(numbers))) == 1
        found.add((int(numbers[0]), int(numbers[1] - numbers[0])))
    assert found == parts


def test_augmentation_and_stride_are_used(tiny_directory, recipe):
    assert differ(load(tiny_directory, frames=2)[0], load(tiny_directory, frames=2, stride=4)[0])
    assert differ(online(recipe, frames=2)[0], online(recipe, frames=2, stride=4)[0])
    still = load(tiny_directory, augmentation=NO_AUGMENTATION)[0]["flow"]
    faster = dataclasses.replace(NO_AUGMENTATION, min_speed=2.0, max_speed=2.0)
    np.testing.assert_allclose(load(tiny_directory, augmentation=faster)[0]["flow"], 2 * still)


def test_sequences_read_part_of_a_split(tiny_directory):
    assert len(Sequences(tiny_directory, "train[:2]", clip_fields("exact"))) == 2
    assert len(load(tiny_directory, "train[2:4]")) == 1


def test_joined_sequences_are_concatenated(tiny_directory):
    parts = [Sequences(tiny_directory, split, clip_fields("exact")) for split in SLICES]
    joined, whole = JoinedSequences(parts), Sequences(tiny_directory, "train", clip_fields("exact"))
    assert len(joined) == len(whole) == 6
    for index in range(6):
        for name, value in whole[index].items():
            np.testing.assert_array_equal(joined[index][name], value)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_training_reads_extra_datasets(tiny_directory, tmp_path, workers):
    older = _copy(tiny_directory, tmp_path / "older", data_version="1.0.0")
    again = _copy(tiny_directory, tmp_path / "again")
    loader = load(tiny_directory, extra_datasets=(older, again), workers=workers)
    own = load(tiny_directory).settings
    assert loader.settings == {**own, "data_version": f"{own['data_version']} and 1.0.0"}
    assert len(loader) == 9
    numbers = [
        int(n) for step in range(9) for n in loader.samples(step).split(" ", 1)[1].split(",")
    ]
    assert sorted(numbers) == list(range(18))
    for batch, step in zip(islice(loader, 2), range(2), strict=False):
        assert_same(batch, loader[step])


def test_incompatible_datasets_are_rejected(tiny_directory, tmp_path):
    flow = {"estimator": "raft", "height": 32, "width": 48}
    other = _copy(tiny_directory, tmp_path / "other", flow=flow)
    with pytest.raises(UserError, match="join datasets of one estimator"):
        load(tiny_directory, extra_datasets=(other,))
    scene = {**load(tiny_directory).settings["scene"], "frames": 3}
    short = _copy(tiny_directory, tmp_path / "short", scene=scene)
    with pytest.raises(UserError, match="short has sequences of 3 frames"):
        load(tiny_directory, extra_datasets=(short,))
    with pytest.raises(UserError, match="is not a dataset"):
        load(tiny_directory, extra_datasets=(tmp_path,))


def _copy(directory, path, **metadata):
    """A dataset like another, with other metadata."""
    shutil.copytree(directory, path)
    settings = path / "metadata.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **metadata}))
    return path


def test_dataset_directory_finds_the_newest_version(tmp_path):
    with pytest.raises(UserError, match=r"no dataset oclr_syn/tiny.*generate.py --config tiny"):
        dataset_directory(tmp_path, "tiny")
    (tmp_path / "oclr_syn" / "tiny" / "1.0.0.unfinished").mkdir(parents=True)
    with pytest.raises(UserError, match="generation was not finished"):
        dataset_directory(tmp_path, "tiny")
    for version in ("1.9.0", "1.10.0"):
        (tmp_path / "oclr_syn" / "tiny" / version).mkdir()
    assert dataset_directory(tmp_path, "tiny").name == "1.10.0"


@pytest.mark.parametrize(
    ("split", "changes", "words"),
    [
        ("train", {"frames": 7}, "sequences of 6 frames"),
        ("train", {"frames": 0}, "choose 1 to 6"),
        ("train", {"gaps": (1, 2)}, r"not \(1, 2\)"),
        ("train", {"gaps": ()}, "gaps 1 and -1"),
        ("train", {"stride": 0}, "must be at least 1, not 0"),
        ("train", {"batch_size": 7}, "has 6 sequences, too few"),
        ("train", {"flow": "raft"}, "no raft flow; choose one of estimated, exact"),
        ("test", {}, "no split test; choose one of train, validation"),
        ("train[oops]", {}, r"no split train\[oops\]"),
    ],
)
def test_wrong_options_are_rejected(tiny_directory, split, changes, words):
    with pytest.raises(UserError, match=words):
        load(tiny_directory, split, **changes)


def test_missing_and_damaged_datasets_are_rejected(tiny_directory, tmp_path):
    with pytest.raises(UserError, match="is not a dataset"):
        load(tmp_path)
    broken = tmp_path / "broken"
    shutil.copytree(tiny_directory, broken)
    shard = min(broken.glob("*train.array_record*"))
    whole = bytearray(shard.read_bytes())
    shard.write_bytes(whole[:1000])
    with pytest.raises(UserError, match="is damaged: files of the split train"):
        load(broken)
    shard.unlink()
    with pytest.raises(UserError, match="is damaged: files of the split train"):
        load(broken)
    whole[30_000] ^= 1
    shard.write_bytes(whole)
    with pytest.raises(UserError, match=r"is damaged: sequence [01] of train"):
        list(load(broken, train=False))


def online(recipe: Rendering, **changes) -> Loader:
    arguments = {"frames": T, "batch_size": 2, "height": H, "width": W, "seed": 3}
    return make_online_loader(recipe, **{**arguments, **changes})


@pytest.fixture
def recipe(tiny_config, tiny_estimator) -> Rendering:
    return Rendering(tiny_config, 0, tiny_estimator)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_online_batch_depends_on_the_step_alone(recipe, workers):
    reference = online(recipe)
    batches = online(recipe, workers=workers).iterate(start_step=1)
    for step, batch in enumerate(islice(batches, 2), start=1):
        assert_same(batch, reference[step])
    batches.close()


def test_online_sequences_equal_stored_ones_and_never_end(recipe):
    for flow, names in (
        ("estimated", ("estimated_forward_flow", "estimated_backward_flow")),
        ("exact", ("forward_flow", "backward_flow")),
    ):
        ((_, example),) = recipe.examples("online", range(4, 5))
        rendered = OnlineSequences(recipe, flow)[4]
        np.testing.assert_array_equal(rendered["forward"], example[names[0]])
        np.testing.assert_array_equal(rendered["backward"], example[names[1]])
        np.testing.assert_array_equal(rendered["amodal"], example["amodal_segmentations"])
        np.testing.assert_array_equal(rendered["segmentations"], example["video"]["segmentations"])
    loader = online(recipe)
    assert differ(loader[0], loader[10**8])
    assert differ(loader[0], online(dataclasses.replace(recipe, seed=1))[0])
    assert loader.settings["flow"]["estimator"] == "dis"
    assert loader[0]["modal"].any(axis=(1, 2, 3, 4)).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"frames": 7}, "sequences of 6 frames"),
        ({"gaps": (2,)}, "gaps 1 and -1"),
        ({"stride": 0}, "must be at least 1, not 0"),
        ({"flow": "raft"}, "no raft flow"),
    ],
)
def test_wrong_online_options_are_rejected(recipe, changes, words):
    with pytest.raises(UserError, match=words):
        online(recipe, **changes)


@pytest.mark.parametrize(
    "options", [{}, {"train": False}, {"process_index": 1, "process_count": 2}], ids=str
)
def test_samples_name_the_sequences_of_a_batch(tiny_directory, monkeypatch, options):
    read, original = [], Sequences.__getitem__

    def reading(self, index):
        read.append(int(index))
        return original(self, index)

    monkeypatch.setattr(Sequences, "__getitem__", reading)
    loader = load(tiny_directory, **options)
    for step in range(len(loader)):
        read.clear()
        loader[step]
        numbers = loader.samples(step).removeprefix("sequences ").split(", ")
        assert sorted(map(int, numbers)) == sorted(read)

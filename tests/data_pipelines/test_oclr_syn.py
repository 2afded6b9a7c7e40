"""The features of the dataset, their contents and precision."""

import hashlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from data_pipelines.builders.examples import encode_flow, encode_jpeg
from data_pipelines.builders.oclr_syn import (
    MIN_SEEN,
    OclrSyn,
    OclrSynConfig,
    Rendering,
    render_seen,
    shard_ranges,
)
from data_pipelines.synthetic import (
    DATA_VERSION,
    SceneConfig,
    SceneKind,
    render,
    sample_scene,
)
from oclr_jax.errors import UserError
from oclr_jax.flow.gaps import gap_flows
from oclr_jax.flow.resize import resize_flow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def source(tiny_directory):
    return tfds.builder_from_directory(tiny_directory).as_data_source("train")


def test_examples_hold_what_was_rendered(source, tiny_config, tiny_estimator):
    for index in (0, 5):
        drawn = Rendering(tiny_config, 0, tiny_estimator).sample("train", index)
        stored, kind = source[index], tiny_config.kind(index)
        assert stored["metadata"] == {
            "num_frames": 6,
            "video_name": f"train_{index:06d}".encode(),
            "background": kind.background.encode(),
            "motion": kind.motion.encode(),
            "shape": kind.shape.encode(),
        }
        np.testing.assert_array_equal(
            stored["video"]["segmentations"], drawn["segmentations"][..., None]
        )
        np.testing.assert_array_equal(stored["amodal_segmentations"], drawn["amodal"])
        for name in ("occluder", "forward_occlusion", "backward_occlusion"):
            np.testing.assert_array_equal(stored[name], drawn[name][..., None])
        for name in ("layer_order", "visibility", "stationary"):
            np.testing.assert_array_equal(stored[name], drawn[name])
        for name in ("forward_flow", "backward_flow"):
            np.testing.assert_allclose(stored[name], drawn[name], atol=1 / 128)
        estimated = resize_flow(gap_flows(drawn["video"], (1, -1), tiny_estimator), 32, 48)
        for name, part in (("forward", estimated[..., :2]), ("backward", estimated[..., 2:])):
            np.testing.assert_allclose(stored[f"estimated_{name}_flow"], part, atol=1 / 128)
        frames = np.stack(stored["video"]["frames"])
        assert np.abs(frames.astype(int) - drawn["video"]).mean() < 4


def test_numbers_of_objects_alternate_and_layers_run_front_to_back(source):
    for index, example in enumerate(source):
        objects = 1 + index % 3
        order = [k if k < objects else -1 for k in range(3)]
        assert example["layer_order"].tolist() == order
        present = example["amodal_segmentations"].any(axis=(0, 1, 2))
        assert present.tolist() == [k < objects for k in range(3)]


def test_every_field_is_documented(tiny_directory):
    features = tfds.builder_from_directory(tiny_directory).info.features
    fields = {"frames": features["video"]["frames"].feature}
    fields["segmentations"] = features["video"]["segmentations"]
    fields |= dict(features["metadata"].items())
    fields |= {name: features[name] for name in features if name not in ("video", "metadata")}
    assert len(fields) == 18
    assert [name for name, field in fields.items() if not field.doc.desc] == []


def test_metadata_record_the_settings(tiny_directory, tiny_estimator):
    metadata = tfds.builder_from_directory(tiny_directory).info.metadata
    assert metadata["data_version"] == DATA_VERSION
    assert metadata["flow"] == tiny_estimator.settings()
    assert metadata["seed"] == 0
    assert metadata["scene"]["frames"] == 6


def test_reading_needs_neither_our_code_nor_tensorflow_nor_jax(tiny_directory):
    code = (
        "import sys, tensorflow_datasets as tfds\n"
        f"source = tfds.builder_from_directory({str(tiny_directory)!r}).as_data_source('train')\n"
        "print(source[0]['forward_flow'].shape)\n"
        "print([m for m in ('jax', 'tensorflow', 'data_pipelines') if m in sys.modules])\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.splitlines() == ["(6, 32, 48, 2)", "[]"]


def test_a_sequence_depends_on_seed_split_and_index_alone(tiny_config, tiny_estimator):
    def first(seed, split, indices):
        recipe = Rendering(tiny_config, seed, tiny_estimator)
        return next(recipe.examples(split, indices))[1]["amodal_segmentations"]

    alone = first(0, "train", range(2, 3))
    *_, (_, last) = Rendering(tiny_config, 0, tiny_estimator).examples("train", range(3))
    np.testing.assert_array_equal(alone, last["amodal_segmentations"])
    for other in (first(1, "train", range(2, 3)), first(0, "validation", range(2, 3))):
        assert (alone != other).any()


def test_every_object_is_seen():
    # Small and far too fast: many scenes have an object that never comes into view.
    config = SceneConfig(frames=3, height=16, width=32, render_height=32, render_width=64)
    for index in range(20):
        drawn = render_seen(np.random.default_rng(index), config, SceneKind(3, occluder=True))
        masks = [drawn["segmentations"] == layer + 1 for layer in range(3)]
        for mask in (*masks, drawn["occluder"] == 1):
            assert mask.mean(axis=(1, 2)).max() >= MIN_SEEN


def test_render_seen_samples_again(monkeypatch):
    config = SceneConfig(frames=2, height=16, width=32, render_height=32, render_width=64)
    drawn = render(sample_scene(np.random.default_rng(0), config, 1))
    hidden = {**drawn, "segmentations": np.zeros_like(drawn["segmentations"])}
    answers = [hidden, hidden, drawn]
    module = "data_pipelines.builders.oclr_syn.render"
    monkeypatch.setattr(module, lambda scene, footage_flow: answers.pop(0))
    assert render_seen(np.random.default_rng(0), config, SceneKind(1)) is drawn
    monkeypatch.setattr(module, lambda scene, footage_flow: hidden)
    with pytest.raises(UserError, match="is never visible; make"):
        render_seen(np.random.default_rng(0), config, SceneKind(1))


def test_rendering_without_an_estimator_is_rejected(tmp_path):
    builder = OclrSyn(data_dir=tmp_path, config="tiny")
    with pytest.raises(UserError, match="needs a flow estimator"):
        builder.download_and_prepare()


def test_the_card_lists_parameters_sources_fields_and_files(tiny_directory):
    card = (tiny_directory / "README.md").read_text()
    assert card.startswith(f"# oclr_syn/tiny, version {DATA_VERSION}\n")
    for line in (
        "- train: 6",
        "- images: procedural, no files",
        "- scene.frames: 6",
        '- flow.estimator: "dis"',
        "- seed: 0",
    ):
        assert line in card.splitlines()
    assert "- occluder: 0/1 mask of the artificial occluder" in card
    for path in tiny_directory.glob("*.array_record*"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"- {path.name}: sha256 {digest}" in card


@given(count=st.integers(1, 200), size=st.integers(1, 50))
def test_shards_cover_a_split_once_in_order(count, size):
    config = OclrSynConfig(name="c", splits={"train": count}, sequences_per_shard=size)
    ranges = shard_ranges(config, "train")
    assert [index for indices in ranges for index in indices] == list(range(count))
    assert all(len(indices) <= size for indices in ranges)


@given(
    flow=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 4), st.just(2)),
        elements=st.floats(-300, 300, width=32),
    )
)
def test_stored_flow_is_as_precise_as_documented(flow):
    stored = encode_flow(flow).astype(np.float32)
    magnitude = np.abs(flow)
    bound = np.select([magnitude < 32, magnitude < 64, magnitude < 128], [1 / 128, 1 / 64, 1 / 32])
    bound[magnitude >= 128] = 1 / 8
    assert (np.abs(stored - flow) <= bound + 1e-6).all()
    # What is stored survives being stored again.
    np.testing.assert_array_equal(encode_flow(stored).astype(np.float32), stored)


def test_stored_flow_stays_finite():
    assert np.isfinite(encode_flow(np.array([[1e9, -1e9]], np.float32))).all()


def test_jpeg_keeps_colours_in_their_channels():
    frame = np.zeros((16, 16, 3), np.uint8)
    frame[..., 0] = 200  # red
    decoded = cv2.imdecode(np.frombuffer(encode_jpeg(frame), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.abs(decoded.astype(int) - frame).max() < 12

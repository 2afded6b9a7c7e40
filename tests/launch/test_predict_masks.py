"""The command that stores predicted masks."""

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from launch import predict_masks
from oclr_jax.errors import UserError
from oclr_jax.models.oclr import OCLR
from oclr_jax.oclr.predict import load_segmenter
from oclr_jax.oclr.sequences import predict_sequence
from oclr_jax.train.tasks.segmentation import init_params
from oclr_jax.weights.file import save_weights
from tests.clips import CONFIG, INFO, motion_segmenter


@pytest.fixture
def dataset(data_dir, tmp_path):
    (stored,) = data_dir.glob("oclr_syn/tiny/*")
    return shutil.copytree(stored, tmp_path / "tiny")


@pytest.fixture
def weights(dataset, tmp_path):
    """Random weights of a small model, for the flow of the dataset."""
    flow = tfds.builder_from_directory(dataset).info.metadata["flow"]
    path = tmp_path / "small.safetensors"
    info = replace(INFO, flow=dict(flow), name="small")
    save_weights(path, init_params(OCLR(CONFIG), 0), info, dtype="float32")
    return path


def test_the_command_stores_what_the_weights_predict(dataset, weights, capsys):
    command = [str(dataset), "--weights", str(weights), "--quiet"]
    assert predict_masks.main(command) == 0
    folder = dataset / "predicted_masks" / "small"
    assert capsys.readouterr().out == f"{folder} is ready\n"
    builder = tfds.builder_from_directory(folder)
    segmenter = load_segmenter(str(weights))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    metadata = builder.info.metadata
    assert metadata["weights"] == {"name": "small", "sha256": digest}
    assert metadata["precision"] == "float32"
    assert metadata["window"]["frames"] == segmenter.info.model.frames
    assert metadata["dataset"]["config"] == "tiny"
    example = tfds.builder_from_directory(dataset).as_data_source("validation")[1]
    flow = np.concatenate(
        [example[f"estimated_{way}_flow"] for way in ("forward", "backward")], axis=-1
    )
    probability, order = predict_masks.predict_stored(segmenter, flow.astype(np.float32), (1, -1))
    stored = builder.as_data_source("validation")[1]
    np.testing.assert_allclose(stored["probability"] / 255, probability, atol=1 / 255)
    np.testing.assert_allclose(stored["order"], order, atol=1e-4)
    assert predict_masks.main(command) == 0
    assert capsys.readouterr().out == f"{folder} exists; nothing to do\n"


def test_flow_is_resized_and_its_gaps_are_selected(monkeypatch):
    segmenter = motion_segmenter()
    seen = []
    monkeypatch.setattr(
        predict_masks,
        "predict_sequence",
        lambda segmenter, flow: seen.append(flow) or predict_sequence(segmenter, flow),
    )
    flow = np.ones((7, 64, 96, 4), np.float32) * np.array([1, 2, 3, 4], np.float32)
    predict_masks.predict_stored(segmenter, flow, (-1, 1))
    assert seen[0].shape == (7, 32, 48, 4)
    np.testing.assert_allclose(seen[0][0, 0, 0], [1.5, 2, 0.5, 1])
    with pytest.raises(UserError, match="needs flow at gap"):
        predict_masks.predict_stored(segmenter, flow, (3, -3))


def test_errors_are_one_sentence(dataset, tmp_path, capsys, monkeypatch):
    assert predict_masks.main([str(tmp_path)]) == 2
    assert "is not a dataset" in capsys.readouterr().err
    assert predict_masks.main([str(dataset), "--weights", "none"]) == 2
    assert "none" in capsys.readouterr().err
    monkeypatch.setattr(predict_masks, "load_segmenter", lambda *_: motion_segmenter())

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict_masks, "predict_stored", interrupt)
    assert predict_masks.main([str(dataset), "--quiet"]) == 130
    assert "same command again" in capsys.readouterr().err
    assert [path.name for path in (dataset / "predicted_masks").iterdir()] == ["motion.unfinished"]


def test_flow_of_another_estimator_is_warned_of(dataset, capsys, monkeypatch):
    segmenter = motion_segmenter()
    monkeypatch.setattr(predict_masks, "load_segmenter", lambda *_: segmenter)
    monkeypatch.setitem(segmenter.info.flow, "estimator", "raft")
    assert predict_masks.main([str(dataset), "--quiet"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: the weights motion were trained on RAFT")

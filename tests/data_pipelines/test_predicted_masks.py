"""Stored predictions: contents, resumption, rejected datasets."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.builders.benchmarks import BUILDERS
from data_pipelines.builders.predicted_masks import write_predicted_masks
from data_pipelines.builders.staging import unfinished_directory
from data_pipelines.loaders.sequences import open_sequences
from oclr_jax.errors import UserError
from oclr_jax.flow import DIS
from tests.data_pipelines.conftest import GRID, copy_dataset, predict
from tests.datasets.miniatures import MINIATURES

SETTINGS = {"weights": {"name": "w", "sha256": "0"}}


def write(directory, name="w", settings=SETTINGS, model=predict):
    return write_predicted_masks(
        directory, name, model, GRID, settings, sequences_per_shard=2, quiet=True
    )


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_sequence_has_its_predictions_in_the_same_place(masks_directory):
    for split, count in (("train", 6), ("validation", 3)):
        stored = tfds.builder_from_directory(masks_directory).as_data_source(split)
        folder = masks_directory / "predicted_masks" / "motion"
        masks = tfds.builder_from_directory(folder).as_data_source(split)
        assert len(masks) == len(stored) == count
        for mask, example in zip(masks, stored, strict=True):
            assert mask["video_name"] == example["metadata"]["video_name"]
            flows = [example[f"estimated_{way}_flow"] for way in ("forward", "backward")]
            probability, order = predict(np.concatenate(flows, -1).astype(np.float32))
            np.testing.assert_allclose(mask["probability"] / 255, probability, atol=0.5 / 255)
            np.testing.assert_array_equal(mask["order"], order)
    features = tfds.builder_from_directory(folder).info.features
    assert all(features[name].doc.desc for name in features)


def test_a_slice_names_the_same_sequences_in_both(masks_directory):
    folder = masks_directory / "predicted_masks" / "motion"
    for part in ("train[3:5]", "train[50%:]"):
        fields = {"name": "video_name"}
        masks, _ = open_sequences(folder, part, fields)
        stored, _ = open_sequences(masks_directory, part, {"name": "metadata/video_name"})
        assert [masks[i]["name"] for i in range(len(masks))] == [
            stored[i]["name"] for i in range(len(stored))
        ]


def test_an_interrupted_run_resumes_with_the_same_bytes(tiny_directory, tmp_path):
    whole = copy_dataset(tiny_directory, tmp_path / "whole")
    directory = copy_dataset(tiny_directory, tmp_path / "cut")
    folder, predicted = write(whole)
    assert predicted
    calls = []

    def interrupted(flow):
        calls.append(len(flow))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return predict(flow)

    with pytest.raises(KeyboardInterrupt):
        write(directory, model=interrupted)
    unfinished = unfinished_directory(directory / "predicted_masks" / "w")
    assert len(list(unfinished.glob("*.array_record*"))) == 1
    assert not list(unfinished.glob(".*"))
    (unfinished / ".half-written").write_bytes(b"of a process that was killed")
    with pytest.raises(UserError, match=r"other settings \(weights\)"):
        write(directory, settings={"weights": {"name": "w", "sha256": "1"}})
    calls.clear()
    resumed, predicted = write(directory, model=lambda flow: calls.append(0) or predict(flow))
    # 9 sequences less the two in the finished shard.
    assert predicted and len(calls) == 7
    assert contents(resumed) == contents(folder)
    assert not unfinished.exists()
    assert write(directory, model=interrupted) == (resumed, False)


def test_unusable_datasets_are_rejected(tiny_directory, masks_directory, tmp_path):
    with pytest.raises(UserError, match="is not a dataset"):
        write(tmp_path)
    with pytest.raises(UserError, match="local copy"):
        write("gs://bucket/oclr_syn/tiny/2.0.0")
    with pytest.raises(UserError, match="no estimated flow"):
        write(masks_directory / "predicted_masks" / "motion")
    directory = copy_dataset(tiny_directory, tmp_path / "data")
    (directory / "predicted_masks").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="Cannot write"):
        write(directory)
    next(directory.glob("*train.array_record*")).unlink()
    with pytest.raises(UserError, match="is damaged"):
        write(directory)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_masks_of_a_built_benchmark(tmp_path):
    MINIATURES["davis2016"](tmp_path / "manual")
    builder = BUILDERS["davis2016"](
        data_dir=tmp_path / "data", config="gap1", estimator=DIS(height=64, width=96)
    )
    config = tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
    builder.download_and_prepare(download_config=config)
    folder, _ = write(builder.data_dir)
    stored = builder.as_data_source("validation")
    masks = tfds.builder_from_directory(folder).as_data_source("validation")
    assert [len(mask["probability"]) for mask in masks] == [
        example["metadata"]["num_frames"] for example in stored
    ]

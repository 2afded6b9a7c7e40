"""Weights files: what is written comes back, what is broken is refused in one sentence."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from oclr_jax.errors import UserError
from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.weights import segmentation as weights
from oclr_jax.weights.segmentation import WeightsInfo, load_weights, save_weights
from oclr_jax.weights.tree import flatten, unflatten

CONFIG = OCLRConfig(
    queries=2, frames=3, height=16, width=32, channels=(4, 4, 8), heads=4, feedforward=12,
    encoder_layers=1, decoder_layers=1, gaps=(2, -2), compute_dtype="bfloat16",
)  # fmt: skip
INFO = WeightsInfo(
    model=CONFIG,
    flow={"estimator": "dis", "preset": "medium", "height": 64, "width": 96},
    data_version="1",
    name="tiny",
    card={"steps": 3, "seed": 0, "metrics": {"J": 0.5}, "command": "train"},
)


@pytest.fixture(scope="module")
def params():
    flow = jnp.zeros((1, 1, 16, 16, 4))
    return jax.jit(OCLR(CONFIG).init)(jax.random.key(0), flow)["params"]


@pytest.fixture
def saved(tmp_path, params) -> Path:
    save_weights(tmp_path / "a.safetensors", params, INFO, "float32")
    return tmp_path / "a.safetensors"


def refusal(name_or_path) -> str:
    with pytest.raises(UserError) as caught:
        load_weights(name_or_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, arrays=None, description: str | None = None) -> Path:
    """The file again with other arrays or another description."""
    arrays = load_file(path) if arrays is None else arrays
    description = INFO.to_json() if description is None else description
    save_file(arrays, path, metadata={weights.METADATA_KEY: description})
    return path


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0), ("float16", 1e-3), ("bfloat16", 8e-3)]
)
def test_what_is_written_comes_back(tmp_path, params, dtype, tolerance):
    path = tmp_path / "ä b" / "w.safetensors"
    save_weights(path, params, INFO, dtype)
    read, info = load_weights(path)
    assert info == INFO
    read, expected = flatten(read), flatten(params)
    assert read.keys() == expected.keys()
    for name, leaf in read.items():
        assert leaf.dtype == np.float32
        np.testing.assert_allclose(
            leaf, expected[name], rtol=tolerance, atol=1e-6 * bool(tolerance)
        )


def test_flat_names_and_trees_are_inverse():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert flatten(tree) == {"a/b": 1, "a/c/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree


def test_weights_in_the_package_are_found_by_name(monkeypatch, saved):
    monkeypatch.setattr(weights, "SHIPPED", saved.parent)
    assert load_weights("a")[1] == INFO
    assert "a" in refusal("another name")
    monkeypatch.setattr(weights, "DEFAULT_WEIGHTS", "a")
    assert load_weights()[1] == INFO


def test_files_that_are_missing_or_broken_are_refused(tmp_path, saved):
    assert "nothing.safetensors" in refusal(tmp_path / "nothing.safetensors")
    assert "neither" in refusal(tmp_path)
    data = saved.read_bytes()
    for length in (0, 7, 100, len(data) // 2, len(data) - 1):
        saved.write_bytes(data[:length])
        assert "safetensors" in refusal(saved)
    saved.write_bytes(b"\xff" * 1000)
    assert "safetensors" in refusal(saved)


def test_descriptions_that_are_missing_or_wrong_are_refused(saved):
    described = json.loads(INFO.to_json())
    changes = [
        {"format_version": 99},
        {"extra": 1},
        {"flow": "dis"},
        {"model": {**described["model"], "heads": 3}},
        {"model": {**described["model"], "heads": None}},
        {"model": {**described["model"], "channels": [4, 0, 8]}},
        {"model": {**described["model"], "surprise": 1}},
        {"model": []},
    ]
    texts = [json.dumps(described | change) for change in changes]
    for text in [*texts, "", "[]", "{", "null", json.dumps({"model": {}})]:
        assert "description" in refusal(rewrite(saved, description=text))
    save_file(load_file(saved), saved)
    assert "oclr convert" in refusal(saved)


def test_arrays_that_do_not_fit_the_description_are_listed(saved):
    arrays = load_file(saved)
    wrong = {name: array for name, array in arrays.items() if name != "order2/bias"}
    wrong |= {"more": np.zeros(2, np.float32), "order1/bias": np.zeros(9, np.float32)}
    message = refusal(rewrite(saved, wrong))
    assert "missing: order2/bias; extra: more; misshapen: order1/bias is [9]" in message
    message = refusal(rewrite(saved, arrays | {"order2/bias": np.zeros(1, np.int32)}))
    assert "not floating point: order2/bias" in message


def test_nothing_is_written_of_weights_that_cannot_be_used(tmp_path, params):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"what was there before")
    flat = flatten(params)
    for wrong, dtype in (
        ({"order2/bias": np.full(1, np.nan, np.float32)}, "float32"),
        ({"order2/bias": np.full(1, 1e6, np.float32)}, "float16"),
        ({"order2/bias": np.zeros(2, np.float32)}, "float32"),
        ({"order3/bias": np.zeros(2, np.float32)}, "float32"),
    ):
        with pytest.raises(UserError, match="order"):
            save_weights(path, unflatten(flat | wrong), INFO, dtype)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_refused(tmp_path, params):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="Cannot write"):
        save_weights(tmp_path / "file" / "w.safetensors", params, INFO)

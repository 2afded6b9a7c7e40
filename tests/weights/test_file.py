"""Weights files: what is written comes back, what is broken is refused in one sentence."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from oclr_jax.errors import UserError
from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.models.parameters import flatten, unflatten
from oclr_jax.models.raft import RAFTConfig, parameter_shapes
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights

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

RAFT_INFO = WeightsInfo(RAFTConfig(small=True), "mine", card={"steps": 3})


@pytest.fixture(scope="module")
def params():
    flow = jnp.zeros((1, 1, 16, 16, 4))
    return jax.jit(OCLR(CONFIG).init)(jax.random.key(0), flow)["params"]


@pytest.fixture(scope="module")
def raft_variables():
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(RAFT_INFO.model)
    return unflatten({k: rng.standard_normal(s, np.float32) for k, s in shapes.items()})


@pytest.fixture
def saved(tmp_path, params) -> Path:
    save_weights(tmp_path / "a.safetensors", params, INFO, "float32")
    return tmp_path / "a.safetensors"


def refusal(name_or_path, kind: str = "oclr") -> str:
    with pytest.raises(UserError) as caught:
        load_weights(name_or_path, kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, arrays=None, description: str | None = None, key="oclr_jax") -> Path:
    """The file again with other arrays or another description."""
    arrays = load_file(path) if arrays is None else arrays
    description = INFO.to_json() if description is None else description
    save_file(arrays, path, metadata={key: description})
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


def test_the_default_is_in_the_package():
    assert load_weights()[1].name == load_weights("oclr-small")[1].name == "oclr-small"


def test_flow_weights_are_written_and_read(tmp_path, raft_variables):
    path = tmp_path / "w.safetensors"
    for dtype, tolerance, size in (("float32", 0, 4.1e6), ("float16", 1e-3, 2.1e6)):
        save_weights(path, raft_variables, RAFT_INFO, dtype)
        loaded, info = load_weights(path, "raft")
        assert info == RAFT_INFO
        before, after = flatten(raft_variables), flatten(loaded)
        assert before.keys() == after.keys()
        for name, leaf in after.items():
            np.testing.assert_allclose(leaf, before[name], rtol=tolerance, atol=1e-4 * tolerance)
        assert path.stat().st_size < size


def test_the_description_of_each_kind_has_its_own_key_and_fields(tmp_path, saved, raft_variables):
    """Files must stay readable by the versions of this program that wrote them before."""
    path = tmp_path / "w.safetensors"
    save_weights(path, raft_variables, RAFT_INFO)
    common = {"model", "name", "card", "format_version"}
    for file, key, fields in (
        (saved, "oclr_jax", common | {"flow", "data_version"}),
        (path, "oclr_jax_flow", common),
    ):
        with safe_open(file, framework="numpy") as opened:
            metadata = opened.metadata()
        assert metadata.keys() == {key}
        description = json.loads(metadata[key])
        assert description.keys() == fields and description["format_version"] == 1


def test_weights_of_another_kind_are_named(tmp_path, saved, raft_variables):
    path = tmp_path / "w.safetensors"
    save_weights(path, raft_variables, RAFT_INFO)
    assert "weights for optical flow, and not for segmentation" in refusal(path)
    assert "weights for segmentation, and not for optical flow" in refusal(saved, "raft")


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
    assert "released checkpoint" in refusal(saved)


def test_wrong_descriptions_of_flow_weights_are_refused(tmp_path):
    path, described = tmp_path / "w.safetensors", json.loads(RAFT_INFO.to_json())
    changes = ({"format_version": 9}, {"model": {"small": 1}}, {"model": 3}, {"name": None})
    changes += ({"model": {"small": True, "compute_dtype": "int8"}}, {"flow": {}})
    arrays = {"a": np.zeros(2, np.float32)}
    for text in [*(json.dumps(described | change) for change in changes), "", "[]"]:
        rewrite(path, arrays, text, key="oclr_jax_flow")
        assert "description inside" in refusal(path, "raft")


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

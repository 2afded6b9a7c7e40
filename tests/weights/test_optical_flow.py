"""Files of flow weights, and where they are found."""

import hashlib
import json

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.models.raft import RAFTConfig
from oclr_jax.weights import optical_flow as flow_weights
from oclr_jax.weights.optical_flow import (
    FlowWeightsInfo,
    cache_folder,
    expected_flow_shapes,
    find_flow_weights,
    load_flow_weights,
    save_flow_weights,
)
from oclr_jax.weights.segmentation import load_weights, write_arrays
from oclr_jax.weights.tree import flatten, unflatten

INFO = FlowWeightsInfo(RAFTConfig(small=True), "mine", {"steps": 3})


@pytest.fixture(scope="module")
def variables():
    rng = np.random.default_rng(0)
    shapes = expected_flow_shapes(INFO.model)
    return unflatten({k: rng.standard_normal(s, np.float32) for k, s in shapes.items()})


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 1e-3)])
def test_what_is_saved_is_loaded(tmp_path, variables, dtype, error):
    save_flow_weights(tmp_path / "w.safetensors", variables, INFO, dtype)
    loaded, info = load_flow_weights(tmp_path / "w.safetensors")
    assert info == INFO
    before, after = flatten(variables), flatten(loaded)
    assert before.keys() == after.keys()
    for name, leaf in after.items():
        np.testing.assert_allclose(leaf, before[name], rtol=error, atol=1e-4 * error)
    assert (tmp_path / "w.safetensors").stat().st_size < (2.1e6 if error else 4.1e6)


def test_weights_of_the_other_kind_are_named(tmp_path, variables):
    save_flow_weights(tmp_path / "w.safetensors", variables, INFO)
    with pytest.raises(UserError, match="weights for optical flow, and not for segmentation"):
        load_weights(tmp_path / "w.safetensors")
    write_arrays(tmp_path / "s.safetensors", {"a": np.zeros(2, "f4")}, "oclr_jax", "{}", "float32")
    with pytest.raises(UserError, match="for segmentation, and not for optical flow"):
        load_flow_weights(tmp_path / "s.safetensors")


def test_what_does_not_fit_is_refused(tmp_path, variables):
    path = tmp_path / "w.safetensors"
    flat = flatten(variables)
    with pytest.raises(UserError, match="extra: params/more"):
        save_flow_weights(path, unflatten(flat | {"params/more": np.zeros(1, "f4")}), INFO)
    described = json.loads(INFO.to_json())
    changes = ({"format_version": 9}, {"model": {"small": 1}}, {"model": 3}, {"name": None})
    changes += ({"model": {"small": True, "compute_dtype": "int8"}}, {"extra": 1})
    for text in [*(json.dumps(described | change) for change in changes), "", "[]"]:
        write_arrays(path, {"a": np.zeros(2, "f4")}, "oclr_jax_flow", text, "float32")
        with pytest.raises(UserError, match="description inside"):
            load_flow_weights(path)


def test_weights_are_found_by_path_or_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with pytest.raises(UserError, match=r"github.com/princeton-vl/RAFT and put raft-small\.pth"):
        find_flow_weights(None, "raft-small")
    with pytest.raises(UserError, match="no flow weights mine"):
        find_flow_weights("mine")
    cache_folder().mkdir(parents=True)
    assert cache_folder() == tmp_path / "caches" / "oclr_jax" / "weights"
    for name in ("mine", "raft-small.pth", "raft-things.pth"):
        (cache_folder() / name).write_bytes(name.encode())
    assert find_flow_weights("mine") == cache_folder() / "mine"
    assert find_flow_weights(None, "raft-small") == cache_folder() / "raft-small.pth"
    own = tmp_path / "raft-things.pth"
    own.write_bytes(b"trained by the user")
    assert find_flow_weights(own) == own


def test_a_released_file_must_be_the_released_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache_folder().mkdir(parents=True)
    (cache_folder() / "raft-things.pth").write_bytes(b"something else")
    with pytest.raises(UserError, match="SHA-256 differs"):
        find_flow_weights(None)
    digest = hashlib.sha256(b"something else").hexdigest()
    monkeypatch.setitem(flow_weights.SHA256, "raft-things.pth", digest)
    assert find_flow_weights(None) == cache_folder() / "raft-things.pth"

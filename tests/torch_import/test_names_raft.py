"""Converting released RAFT checkpoints: strict, and into the right places."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.models.parameters import flatten
from oclr_jax.models.raft import RAFT, RAFTConfig, parameter_shapes
from oclr_jax.torch_import.names_raft import UNUSED, duplicates, import_raft, raft_entries
from oclr_jax.weights.convert import convert_checkpoint
from oclr_jax.weights.file import load_weights
from tests.torch_import import torch_writer as w


def random_state(config: RAFTConfig) -> dict[str, np.ndarray]:
    """A state dict in the released layout, with `module.` before every name."""
    shapes = parameter_shapes(config)
    entries = raft_entries(config)
    rng = np.random.default_rng(0)
    state = {
        name: rng.standard_normal(entry.torch_shape(shapes), np.float32)
        for name, entry in entries.items()
    }
    state |= {name: state[first] for name, first in duplicates(entries).items()}
    norms = [name.removesuffix("running_mean") for name in state if name.endswith("running_mean")]
    state |= {f"{norm}{UNUSED}": np.array(7) for norm in norms}
    return {f"module.{name}": array for name, array in state.items()}


@pytest.fixture(scope="module", params=[True, False], ids=["small", "basic"])
def state(request) -> dict[str, np.ndarray]:
    return random_state(RAFTConfig(small=request.param))


def refusal(state: dict[str, np.ndarray], folder: Path) -> str:
    path = w.save_state_zip(folder / "in.pth", state)
    with pytest.raises(UserError) as caught:
        convert_checkpoint(path, folder / "out.safetensors")
    assert list(folder.iterdir()) == [path]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("save", [w.save_state_zip, w.save_state_legacy])
def test_every_number_arrives_once(tmp_path, state, save):
    out = tmp_path / "out.safetensors"
    small = "module.fnet.layer1.0.conv3.weight" in state
    written = convert_checkpoint(save(tmp_path / "raft-mine.pth", state), out)
    assert written.name == "out"
    variables, info = load_weights(out, "raft")
    assert info.model == RAFTConfig(small)
    assert info.card["converted_from"] == "raft-mine.pth"
    kept = [
        array.ravel()
        for name, array in state.items()
        if UNUSED not in name and not (".0.norm3" in name and "cnet" in name and not small)
    ]
    numbers = np.concatenate([leaf.ravel() for leaf in flatten(variables).values()])
    np.testing.assert_array_equal(np.sort(numbers), np.sort(np.concatenate(kept)))


@pytest.mark.parametrize("name", ["raft", "raft_small"])
def test_names_and_shapes_are_those_of_the_release(shared_dir, name):
    path = shared_dir / "reference" / "state_dicts" / f"{name}_state_dict.json"
    listed = {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}
    config = RAFTConfig(small=name == "raft_small")
    entries = raft_entries(config)
    shapes = parameter_shapes(config)
    ours = {key: entry.torch_shape(shapes) for key, entry in entries.items()}
    ours |= {again: ours[first] for again, first in duplicates(entries).items()}
    assert ours == {key: shape for key, shape in listed.items() if UNUSED not in key}
    assert sorted(path for entry in entries.values() for path in entry.paths) == sorted(shapes)


def test_the_legacy_release_reproduces_the_published_flow(shared_dir, tmp_path):
    golden = shared_dir / "reference" / "golden"
    out = tmp_path / "small.safetensors"
    convert_checkpoint(golden / "raft_small_dataparallel_legacy.pth", out)
    variables, info = load_weights(out, "raft")
    with np.load(golden / "raft_small.npz") as file:
        frames = [np.moveaxis(file[f"in_image{i}"], 1, -1) / np.float32(255) for i in (1, 2)]
        iterations, expected = int(file["iters"]), np.moveaxis(file["out_flow_up"], 1, -1)
    apply = jax.jit(RAFT(info.model).apply, static_argnums=3)
    flow = apply(variables, *map(jnp.asarray, frames), iterations).flow[-1]
    np.testing.assert_allclose(flow, expected, atol=1e-3)


def test_half_precision_is_taken(state):
    half = {name.removeprefix("module."): array for name, array in state.items()}
    half = {n: a if UNUSED in n else a.astype(np.float16) for n, a in half.items()}
    variables, _ = import_raft(half)
    assert {leaf.dtype for leaf in flatten(variables).values()} == {np.dtype(np.float32)}


def test_missing_extra_and_misshapen_entries_are_all_listed(tmp_path, state):
    wrong = dict(state)
    del wrong["module.fnet.conv2.bias"]
    wrong["module.head.weight"] = np.zeros(3, np.float32)
    wrong["module.update_block.flow_head.conv2.bias"] = np.zeros(3, np.float32)
    missing, extra, misshapen = refusal(wrong, tmp_path).split(";")
    assert "missing: fnet.conv2.bias" in missing
    assert extra.strip() == "extra: head.weight"
    assert "flow_head.conv2.bias is [3] and must be [2]" in misshapen


def test_wrong_types_and_values_are_refused(tmp_path, state):
    name = "module.fnet.conv2.bias"
    integers = state | {name: np.zeros(state[name].shape, np.int64)}
    assert "floating-point numbers: fnet.conv2.bias" in refusal(integers, tmp_path)
    infinite = state | {name: np.full(state[name].shape, np.inf, np.float32)}
    assert "not finite: fnet.conv2.bias" in refusal(infinite, tmp_path)


def test_two_copies_that_differ_are_refused(tmp_path):
    state = random_state(RAFTConfig())
    name = "module.cnet.layer3.0.norm3.running_var"
    assert "downsample.1.running_var" in refusal(state | {name: state[name] + 1}, tmp_path)

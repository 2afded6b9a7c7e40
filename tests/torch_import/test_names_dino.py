"""Converting released DINO checkpoints: strict, and into the right places."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.models.dino import MODELS, DINOConfig, parameter_shapes
from oclr_jax.models.parameters import flatten
from oclr_jax.torch_import.names_dino import dino_entries, import_dino
from oclr_jax.weights.convert import convert_checkpoint
from oclr_jax.weights.file import load_weights
from tests.torch_import import torch_writer as w

SMALL = DINOConfig(patch=16, width=64, depth=2, heads=1)
V2 = DINOConfig(patch=14, width=64, depth=2, heads=1, trained_side=518, layer_scale=True)


def random_state(config: DINOConfig) -> dict[str, np.ndarray]:
    shapes = parameter_shapes(config)
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(entry.torch_shape(shapes), np.float32)
        for name, entry in dino_entries(config).items()
    }


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return random_state(SMALL)


def save_training(path: Path, state: dict[str, np.ndarray]) -> Path:
    """A training checkpoint: teacher and student, each behind a dict of its own."""
    head = {"module.head.last_layer.weight_g": np.ones((5, 1), np.float32)}
    teacher = {f"module.backbone.{name}": array for name, array in state.items()} | head
    student = {name: array + 1 for name, array in teacher.items()}
    body, data = {"epoch": w.number(100)}, {}
    for model, arrays in {"student": student, "teacher": teacher}.items():
        keys = {name: str(len(data) + index) for index, name in enumerate(arrays)}
        body[model] = w.dict_of({name: w.whole(keys[name], a) for name, a in arrays.items()})
        data |= {keys[name]: array.tobytes() for name, array in arrays.items()}
    return w.write_zip(path, w.dict_of(body), data)


def save_flat(path: Path, state: dict[str, np.ndarray]) -> Path:
    named = {f"teacher.backbone.{name}": array for name, array in state.items()}
    other = {"student.backbone.cls_token": np.ones((1, 1, 64), np.float32)}
    return w.save_state_zip(path, named | other)


@pytest.mark.parametrize("save", [w.save_state_zip, w.save_state_legacy, save_training, save_flat])
def test_every_number_arrives_once(tmp_path, state, save):
    out = tmp_path / "out.safetensors"
    convert_checkpoint(save(tmp_path / "dino.pth", state), out)
    variables, info = load_weights(out, "dino")
    assert info.model == SMALL
    numbers = np.concatenate([leaf.ravel() for leaf in flatten(variables).values()])
    given = np.concatenate([array.ravel() for array in state.values()])
    np.testing.assert_array_equal(np.sort(numbers), np.sort(given))


@pytest.mark.parametrize(("file", "model"), [("vits8", "ViT-S/8"), ("vits16", "ViT-S/16")])
def test_names_and_shapes_are_those_of_the_release(shared_dir, file, model):
    path = shared_dir / "reference" / "state_dicts" / f"dino_{file}_state_dict.json"
    listed = {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}
    entries, shapes = dino_entries(MODELS[model]), parameter_shapes(MODELS[model])
    assert {key: entry.torch_shape(shapes) for key, entry in entries.items()} == listed
    assert sorted(path for entry in entries.values() for path in entry.paths) == sorted(shapes)


def refusal(state: dict[str, np.ndarray], folder: Path) -> str:
    path = w.save_state_zip(folder / "in.pth", state)
    with pytest.raises(UserError) as caught:
        convert_checkpoint(path, folder / "out.safetensors")
    assert list(folder.iterdir()) == [path]
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_missing_extra_and_misshapen_entries_are_all_listed(tmp_path, state, prefix):
    wrong = dict(state)
    del wrong["norm.bias"], wrong["blocks.0.attn.qkv.bias"]
    wrong |= {"blocks.0.attn.table": np.zeros(64, np.float32), "register": np.zeros(3, np.float32)}
    wrong["pos_embed"] = np.zeros((1, 785, 64), np.float32)
    wrong["blocks.1.mlp.fc1.weight"] = np.zeros((64, 256), np.float32)
    named = {prefix + name: array for name, array in wrong.items()}
    missing, extra, misshapen = refusal(named, tmp_path).split("; ")
    assert missing.endswith("missing: blocks.0.attn.qkv.bias, norm.bias")
    assert extra == "extra: blocks.0.attn.table, register"
    assert misshapen == (
        "misshapen: pos_embed is [1, 785, 64] and must be [1, 197, 64], "
        "blocks.1.mlp.fc1.weight is [64, 256] and must be [256, 64]."
    )


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_with_and_without_registers(tmp_path, registers):
    config = replace(V2, registers=registers)
    given = random_state(config)
    unused = {"mask_token": np.full((1, 64), 7.5, np.float32)}
    variables, found = import_dino(given | unused)
    assert found == config
    numbers = np.concatenate([leaf.ravel() for leaf in flatten(variables).values()])
    expected = np.concatenate([array.ravel() for array in given.values()])
    np.testing.assert_array_equal(np.sort(numbers), np.sort(expected))
    block = variables["params"]["blocks_1"]
    np.testing.assert_array_equal(block["attention_scale"], given["blocks.1.ls1.gamma"])
    np.testing.assert_array_equal(block["output_scale"], given["blocks.1.ls2.gamma"])


def test_missing_and_extra_entries_of_dinov2_are_all_listed(tmp_path):
    wrong = random_state(replace(V2, registers=4))
    del wrong["blocks.0.ls2.gamma"], wrong["norm.bias"]
    wrong |= {"head.weight": np.zeros((3, 64), np.float32)}
    wrong["register_tokens"] = np.zeros((2, 4, 64), np.float32)
    missing, extra, misshapen = refusal(wrong, tmp_path).split("; ")
    assert missing.endswith("missing: blocks.0.ls2.gamma, norm.bias")
    assert extra == "extra: head.weight"
    assert misshapen == "misshapen: register_tokens is [2, 4, 64] and must be [1, 4, 64]."


def test_mae_is_a_vit_in_a_dict(tmp_path, state):
    keys = {name: str(index) for index, name in enumerate(state)}
    model = w.dict_of({name: w.whole(keys[name], array) for name, array in state.items()})
    data = {keys[name]: array.tobytes() for name, array in state.items()}
    path = w.write_zip(tmp_path / "mae.pth", w.dict_of({"model": model}), data)
    variables, info = load_weights(path, "dino")
    assert info.model == SMALL
    np.testing.assert_array_equal(variables["params"]["class_token"], state["cls_token"])
    # The mask token belongs to MAE's decoder, which the released encoder does not have.
    with pytest.raises(UserError, match="extra: mask_token"):
        import_dino(state | {"mask_token": np.zeros((1, 1, 64), np.float32)})


def test_arrays_that_fit_no_model_are_compared_with_the_smallest_release(tmp_path, state):
    del (without := dict(state))["patch_embed.proj.weight"]
    assert "missing: patch_embed.proj.weight" in refusal(without, tmp_path)
    # No release has patches of 12 pixels.
    other = state | {"patch_embed.proj.weight": np.zeros((64, 3, 12, 12), np.float32)}
    message = "proj.weight is [64, 3, 12, 12] and must be [384, 3, 8, 8]"
    with pytest.raises(UserError) as caught:
        import_dino(other)
    assert message in str(caught.value)


def test_values_that_are_not_finite_are_refused(tmp_path, state):
    infinite = state | {"norm.bias": np.full(64, np.inf, np.float32)}
    assert "not finite: norm.bias" in refusal(infinite, tmp_path)

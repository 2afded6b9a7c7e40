"""Converting released checkpoints: strict, and faithful to the published program's numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.models.oclr import OCLR, OCLRConfig, parameter_shapes
from oclr_jax.models.parameters import flatten
from oclr_jax.torch_import.names_oclr import import_oclr, oclr_entries
from oclr_jax.weights.convert import convert_checkpoint
from oclr_jax.weights.file import load_weights
from tests.torch_import import torch_writer as w

SMALL = OCLRConfig(
    queries=2, channels=(4, 4, 6, 6, 8), heads=4, feedforward=10, encoder_layers=2, decoder_layers=1
)


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    """A state dict in the released layout, of a small model."""
    shapes = parameter_shapes(SMALL)
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=entry.torch_shape(shapes)).astype(np.float32)
        for name, entry in oclr_entries(SMALL).items()
    }


def refusal(state: dict[str, np.ndarray], folder: Path) -> str:
    out = folder / "out.safetensors"
    with pytest.raises(UserError) as caught:
        convert_checkpoint(w.save_state_zip(folder / "in.pth", state), out)
    assert list(folder.iterdir()) == [folder / "in.pth"]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_released_format_reproduces_the_published_numbers(shared_dir, tmp_path):
    golden = shared_dir / "reference" / "golden"
    out = tmp_path / "out.safetensors"
    written = convert_checkpoint(golden / "oclr_release_format.pth", out)
    params, info = load_weights(out)
    assert info == written
    assert info.model == OCLRConfig(channels=(8, 16, 32, 64, 128))
    assert info.card["steps"] == 20000
    with np.load(golden / "oclr.npz") as file:
        flow = jnp.asarray(file["in_flow"].transpose(0, 1, 3, 4, 2))
        logits, order = file["out_amodal_logits"], file["out_order"]
    output = jax.jit(OCLR(info.model).apply)({"params": params}, flow)
    np.testing.assert_allclose(output.amodal_logits.transpose(0, 1, 4, 2, 3), logits, atol=1e-4)
    np.testing.assert_allclose(output.order, order[:, 0], atol=1e-4)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    path = w.save_state_zip(tmp_path / "in.pth", {"head.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="not a checkpoint of OCLR or RAFT.*head.weight"):
        convert_checkpoint(path, tmp_path / "out.safetensors")
    with pytest.raises(UserError, match="not an OCLR checkpoint.*head.weight"):
        import_oclr({"head.weight": np.zeros(3, np.float32)})
    assert list(tmp_path.iterdir()) == [path]


def test_a_release_is_read_without_conversion(tmp_path, state):
    path = w.save_state_zip(tmp_path / "in.pth", state)
    convert_checkpoint(path, tmp_path / "out.safetensors")
    (direct, info), (converted, _) = load_weights(path), load_weights(tmp_path / "out.safetensors")
    assert info.name == "in" and info.card["converted_from"] == "in.pth"
    direct, converted = flatten(direct), flatten(converted)
    assert direct.keys() == converted.keys()
    for name, leaf in direct.items():
        np.testing.assert_array_equal(leaf, converted[name])
    with pytest.raises(UserError, match="for segmentation, and not for optical flow"):
        load_weights(path, "raft")


def test_a_release_is_recorded_as_trained_on_raft_flow(tmp_path, state):
    info = convert_checkpoint(
        w.save_state_zip(tmp_path / "in.pth", state), tmp_path / "out.safetensors"
    )
    assert info.flow["estimator"] == "raft"
    assert info.flow["weights"] == "raft-things.pth"


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("save", [w.save_state_zip, w.save_state_legacy])
def test_every_number_arrives_whatever_the_format(tmp_path, state, save, prefix):
    path = save(tmp_path / "in.pth", {f"{prefix}{name}": array for name, array in state.items()})
    info = convert_checkpoint(path, tmp_path / "out.safetensors")
    assert info.model == SMALL
    assert info.name == "out"
    params = flatten(load_weights(tmp_path / "out.safetensors")[0])
    numbers = np.sort(np.concatenate([leaf.ravel() for leaf in params.values()]))
    expected = np.sort(np.concatenate([array.ravel() for array in state.values()]))
    np.testing.assert_array_equal(numbers, expected)


def test_half_and_double_precision_are_taken(state):
    for dtype in (np.float16, np.float64, jnp.bfloat16):
        params, config = import_oclr({name: array.astype(dtype) for name, array in state.items()})
        assert config == SMALL
        assert {leaf.dtype for leaf in flatten(params).values()} == {np.dtype(np.float32)}


def test_missing_extra_and_misshapen_entries_are_all_listed(tmp_path, state):
    wrong = dict(state)
    del wrong["classhead.mlp.2.bias"]
    del wrong["transformer_enc.transformer_encoder.layers.1.linear2.weight"]
    wrong["head.weight"] = wrong["head.bias"] = np.zeros(3, np.float32)
    wrong["decoder_am.conv.weight"] = np.zeros((2, 4, 3, 3), np.float32)
    wrong["transformer_dec.encoder_time.proj.bias"] = np.zeros(9, np.float32)
    message = refusal(wrong, tmp_path)
    missing, extra, misshapen = message.split(";")
    assert "missing: " in missing
    assert "classhead.mlp.2.bias" in missing
    assert "layers.1.linear2.weight" in missing
    assert extra.strip() == "extra: head.weight, head.bias"
    assert "decoder_am.conv.weight is [2, 4, 3, 3] and must be [2, 4, 1, 1]" in misshapen
    assert "encoder_time.proj.bias is [9] and must be [8]" in misshapen


def test_a_layer_too_many_or_a_gap_in_the_layers_is_listed(tmp_path, state):
    first = "transformer_dec.transformer_decoder.layers.0."
    moved = {name.replace(first, first.replace("0", "7")): array for name, array in state.items()}
    message = refusal(moved, tmp_path)
    assert f"{first}linear1.weight" in message
    assert "layers.7.linear1.weight" in message


def test_wrong_types_and_values_are_refused(tmp_path, state):
    integers = state | {"classhead.mlp.2.bias": np.zeros(1, np.int64)}
    assert "floating-point numbers: classhead.mlp.2.bias" in refusal(integers, tmp_path)
    infinite = state | {"classhead.mlp.2.bias": np.full(1, np.inf, np.float32)}
    assert "not finite: classhead.mlp.2.bias" in refusal(infinite, tmp_path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("encoder.encoder1.conv_block.enc1conv1.weight", (4, 6, 3, 3)),  # three gaps
        ("heatmap.mlp.0.weight", (8, 7)),  # no multiple of the queries
        ("heatmap.mlp.0.weight", (8, 6)),  # heads that do not divide the channels
        ("transformer_dec.motion_embed.weight", (0, 8)),
        ("transformer_dec.motion_embed.weight", ()),
        ("encoder.bottleneck.conv_block.bottleneckconv1.weight", (0, 6, 3, 3)),
    ],
)
def test_impossible_dimensions_are_refused(tmp_path, state, name, shape):
    refusal(state | {name: np.zeros(shape, np.float32)}, tmp_path)


def test_what_is_no_state_dict_is_refused(tmp_path):
    for body in (b"N", w.number(3), b"]", b"}", b"}(" + w.text("model_state_dict") + b"}u"):
        path = w.write_zip(tmp_path / "in.pth", body, {})
        with pytest.raises(UserError, match="named tensors"):
            convert_checkpoint(path, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == [path]

"""Converting released checkpoints of SAM and HQ-SAM: strict, and into the right places."""

import json
from dataclasses import replace

import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.models.parameters import flatten
from oclr_jax.models.sam import MODELS, SAMConfig, parameter_shapes
from oclr_jax.torch_import.names_sam import import_sam, sam_entries
from oclr_jax.weights.convert import convert_checkpoint
from oclr_jax.weights.file import load_weights
from tests.torch_import import torch_writer as w

TINY = SAMConfig(
    width=8, depth=2, heads=2, global_blocks=(1,), side=20, patch=4, window=3, channels=16,
    decoder_heads=8, decoder_hidden=12, quality_hidden=6, mask_channels=4,
)  # fmt: skip


def random_state(config: SAMConfig) -> dict[str, np.ndarray]:
    shapes, rng = parameter_shapes(config), np.random.default_rng(0)
    return {
        name: rng.standard_normal(entry.torch_shape(shapes), np.float32)
        for name, entry in sam_entries(config).items()
    }


@pytest.fixture(scope="module", params=[False, True], ids=["sam", "hq"])
def config(request) -> SAMConfig:
    return replace(TINY, hq=request.param)


@pytest.fixture(scope="module")
def state(config) -> dict[str, np.ndarray]:
    return random_state(config)


def test_every_number_arrives_once(tmp_path, config, state, capsys):
    path, out = w.save_state_zip(tmp_path / "sam.pth", state), tmp_path / "out.safetensors"
    assert cli.main(["convert", str(path), str(out)]) == 0
    assert "weights for prompted segmentation" in capsys.readouterr().out
    variables, info = load_weights(out, "sam")
    assert info.model == config and "human annotation" in info.card["trained_on"]
    numbers = np.concatenate([leaf.ravel() for leaf in flatten(variables).values()])
    given = np.concatenate([array.ravel() for array in state.values()])
    np.testing.assert_array_equal(np.sort(numbers), np.sort(given))
    with pytest.raises(UserError, match="prompted segmentation, and not for image features"):
        load_weights(out, "dino")


@pytest.mark.parametrize(
    "model",
    ["ViT-B", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ViT-L", "ViT-H"))],
)
def test_names_and_shapes_are_those_of_the_release(shared_dir, model):
    file = f"sam_{model.lower().replace('-', '_')}_state_dict.json"
    path = shared_dir / "reference" / "later" / "state_dicts" / file
    listed = {key: tuple(shape) for key, shape in json.loads(path.read_text()).items()}
    config = MODELS[model]
    entries, shapes = sam_entries(config), parameter_shapes(config)
    assert {key: entry.torch_shape(shapes) for key, entry in entries.items()} == listed
    assert sorted(path for entry in entries.values() for path in entry.paths) == sorted(shapes)
    empty = {key: np.broadcast_to(np.float32(0), shape) for key, shape in listed.items()}
    del empty["image_encoder.neck.3.bias"]
    # The sizes of the release are recognised: nothing but what is missing is complained about.
    with pytest.raises(UserError, match=r"a SAM model: missing: image_encoder.neck.3.bias\.$"):
        import_sam(empty)


def test_missing_extra_and_misshapen_entries_are_all_listed(tmp_path, config, state):
    wrong = dict(state)
    del wrong["image_encoder.neck.3.bias"], wrong["prompt_encoder.no_mask_embed.weight"]
    wrong |= {"mask_decoder.other": np.zeros(3, np.float32), "more": np.zeros(3, np.float32)}
    wrong["image_encoder.blocks.0.mlp.lin1.weight"] = np.zeros((8, 32), np.float32)
    path = w.save_state_zip(tmp_path / "in.pth", wrong)
    with pytest.raises(UserError) as caught:
        convert_checkpoint(path, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == [path]
    missing, extra, misshapen = str(caught.value).split("; ")
    assert missing.endswith(
        "missing: image_encoder.neck.3.bias, prompt_encoder.no_mask_embed.weight"
    )
    assert extra == "extra: mask_decoder.other, more"
    assert misshapen == (
        "misshapen: image_encoder.blocks.0.mlp.lin1.weight is [8, 32] and must be [32, 8]."
    )


def test_a_part_of_hq_sam_is_no_model(config, state):
    """With its token, all of its arrays are required; without it, none may be there."""
    name = "mask_decoder.hf_token.weight"
    part = {key: array for key, array in state.items() if key != name}
    part |= {} if config.hq else {name: np.zeros((1, 16), np.float32)}
    with pytest.raises(UserError, match="extra: .*hf_mlp|missing: .*hf_mlp"):
        import_sam(part)


def test_arrays_that_fit_no_model_are_compared_with_a_release():
    without = random_state(TINY)
    del without["image_encoder.patch_embed.proj.weight"]
    with pytest.raises(UserError, match="image_encoder.patch_embed.proj.weight") as caught:
        import_sam(without)
    assert "image_encoder.blocks.11.norm1.weight" in str(caught.value)


def test_values_that_are_not_finite_are_refused(state):
    name = "image_encoder.neck.1.bias"
    with pytest.raises(UserError, match=f"not finite: {name}"):
        import_sam(state | {name: np.full(16, np.nan, np.float32)})

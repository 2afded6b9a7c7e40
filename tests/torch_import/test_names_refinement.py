"""Converting released selectors and correctors: strict, and every number arrives."""

import functools
from pathlib import Path

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.models import corrector, selector
from oclr_jax.models.parameters import flatten
from oclr_jax.torch_import.names_corrector import corrector_entries, dead_shapes, import_corrector
from oclr_jax.torch_import.names_selector import import_selector, selector_entries
from oclr_jax.weights.convert import convert_checkpoint
from oclr_jax.weights.file import load_weights
from tests.torch_import import torch_writer as w

SELECTOR = selector.SelectorConfig(
    channels=(4, 4, 6, 6, 8), heads=8, layers=2, feedforward=10, feature_channels=12
)
CORRECTOR = corrector.CorrectorConfig(
    objects=2, backgrounds=3, channels=(4, 4, 6, 8), heads=4, layers=2, feedforward=10,
    feature_channels=12,
)  # fmt: skip


def random_state(entries, shapes, dead=()) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {name: entry.torch_shape(shapes) for name, entry in entries.items()} | dict(dead)
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


CONFIGS = {"selector": SELECTOR, "corrector": CORRECTOR}


@functools.cache
def state_of(kind: str) -> dict[str, np.ndarray]:
    if kind == "selector":
        return random_state(selector_entries(SELECTOR), selector.parameter_shapes(SELECTOR))
    shapes = corrector.parameter_shapes(CORRECTOR)
    return random_state(corrector_entries(CORRECTOR), shapes, dead_shapes(CORRECTOR))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_every_number_arrives(tmp_path, kind, prefix):
    state = {f"{prefix}{name}": array for name, array in state_of(kind).items()}
    path = w.save_state_zip(tmp_path / "in.pth", state)
    info = convert_checkpoint(path, tmp_path / "out.safetensors")
    assert info.model == CONFIGS[kind]
    params = flatten(load_weights(tmp_path / "out.safetensors", kind)[0])
    numbers = np.sort(np.concatenate([leaf.ravel() for leaf in params.values()]))
    live = {n: a for n, a in state_of(kind).items() if "bottleneckconv" not in n or kind[0] == "s"}
    expected = np.sort(np.concatenate([array.ravel() for array in live.values()]))
    np.testing.assert_array_equal(numbers, expected)


@pytest.mark.parametrize(
    ("kind", "read"), [("selector", import_selector), ("corrector", import_corrector)]
)
def test_missing_extra_and_misshapen_entries_are_all_listed(kind, read):
    state = dict(state_of(kind))
    removed = [name for name in state if name.endswith("norm1.bias") or "bottleneckconv2" in name]
    for name in removed:
        del state[name]
    first = next(name for name in state if name.endswith("conv2.weight"))
    state |= {"head.bias": np.zeros(3, np.float32), first: np.zeros((4, 9, 3, 3), np.float32)}
    with pytest.raises(UserError) as caught:
        read(state)
    message = str(caught.value)
    assert all(name in message for name in removed)
    assert "extra: head.bias" in message
    assert f"{first} is [4, 9, 3, 3]" in message


def test_a_file_of_another_model_is_refused():
    for read in (import_selector, import_corrector):
        with pytest.raises(UserError, match="head.weight"):
            read({"head.weight": np.zeros(3, np.float32)})


def test_a_released_name_list_is_what_the_tables_expect(shared_dir):
    import json

    folder: Path = shared_dir / "reference" / "state_dicts"
    for kind, config, entries, shapes, dead in (
        ("selector", selector.SelectorConfig(), selector_entries, selector.parameter_shapes, {}),
        (
            "corrector",
            corrector.CorrectorConfig(),
            corrector_entries,
            corrector.parameter_shapes,
            dead_shapes(corrector.CorrectorConfig()),
        ),
    ):
        released = json.loads((folder / f"{kind}_state_dict.json").read_text())
        sizes = shapes(config)
        expected = {name: entry.torch_shape(sizes) for name, entry in entries(config).items()}
        assert {name: tuple(shape) for name, shape in released.items()} == expected | dead

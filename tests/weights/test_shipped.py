"""The weights in the package: that their transformer is at work, and what their card says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.oclr import OCLR
from oclr_jax.weights.file import load_weights
from tests.train.squares import squares

FRAMES = 6


@pytest.fixture(scope="module")
def shipped():
    return load_weights()


def test_the_transformer_tells_clips_and_places_apart(shipped):
    params, info = shipped
    size = (info.model.height, info.model.width)
    flow = jnp.concatenate([squares(i, 1, FRAMES, *size)["flow"] for i in range(2)])
    output, inside = jax.jit(
        lambda p, x: OCLR(info.model).apply({"params": p}, x, mutable=["intermediates"])
    )(params, flow)
    inside = {name: values[0] for name, values in inside["intermediates"].items()}
    # Weights whose transformer had fallen silent once gave 0.0 for each of these three.
    assert np.std(inside["encoded"], axis=(0, 1, 2, 3)).mean() > 0.1
    assert np.mean(inside["attention_maps"] > 0) > 0.02
    assert np.abs(output.order[0] - output.order[1]).max() > 1e-3


def test_the_card_says_how_they_were_made(shipped):
    _, info = shipped
    runs = info.card["runs"]
    assert {"made_of", "data", "window", "validation"} <= info.card.keys()
    seen = []
    for run in runs:
        assert {"name", "command", "config", "seed", "steps", "validation"} <= run.keys()
        assert run["command"].startswith("python launch/train.py --config configs/")
        assert set(run.get("started_from", [])) <= set(seen), "a run starts from earlier ones"
        seen.append(run["name"])
    used = set(info.card["made_of"]).union(*(run.get("started_from", []) for run in runs))
    assert used == set(seen), "every run led to these weights"
    assert not any(place in str(info.card) for place in ("/root", "/home", "/tmp"))

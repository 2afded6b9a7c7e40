"""Affinity in a neighbourhood: published numbers, blocks, borders, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops.affinity import nearest_cells


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "reference" / "golden" / "tta.npz") as file:
        return dict(file)


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=-1, keepdims=True)


def case_of(arrays: dict, name: str):
    """Features `[h w c]` of the target and the sources, labels `[s h w k]`, radius and top."""
    height, width, radius, top = (int(v) for v in arrays[f"{name}/cfg_h_w_radius_topk"])
    target = unit(arrays[f"{name}/feat_target"]).reshape(height, width, -1)
    sources = np.moveaxis(arrays[f"{name}/feat_sources"], 1, 2)
    sources = unit(sources).reshape(len(sources), height, width, -1)
    labels = np.moveaxis(arrays[f"{name}/segs"], 1, -1)
    return target, sources, labels, radius or max(height, width), top


def propagate(target, sources, labels, radius, top, **blocks) -> np.ndarray:
    weights, index = nearest_cells(
        jnp.asarray(target),
        tuple(jnp.asarray(source) for source in sources),
        jnp.ones(len(sources), bool),
        radius,
        top,
        0.1,
        **blocks,
    )
    chosen = labels.reshape(-1, labels.shape[-1])[np.asarray(index)]
    return (chosen * np.asarray(weights)[..., None]).sum(-2)


@pytest.mark.parametrize("block", [(12, 13), (5, 7)])
@pytest.mark.parametrize("name", ["lp_r3", "lp_r12", "lp_full"])
def test_the_published_propagation(golden, name, block):
    found = propagate(*case_of(golden, name), block=block)
    np.testing.assert_allclose(found, np.moveaxis(golden[f"{name}/out"][0], 0, -1), atol=2e-6)


def test_sources_that_do_not_count_have_no_weight():
    features = unit(np.random.default_rng(0).standard_normal((3, 6, 9, 8)).astype(np.float32))
    target, first, second = (jnp.asarray(each) for each in features)
    alone = nearest_cells(target, (first,), jnp.array([True]), 2, 3, 0.1)
    both = nearest_cells(target, (second, first), jnp.array([False, True]), 2, 3, 0.1)
    np.testing.assert_allclose(both[0], alone[0], atol=1e-6)
    assert np.array_equal(both[1], alone[1] + 6 * 9)


def test_small_neighbourhoods_have_fewer_cells():
    features = unit(np.random.default_rng(0).standard_normal((2, 3, 4, 8)).astype(np.float32))
    target, source = (jnp.asarray(each) for each in features)
    weights, index = nearest_cells(target, (source,), jnp.array([True]), 1, 5, 0.1)
    used = np.asarray(weights > 0).sum(-1)
    assert used[0, 0] == 4 and used[0, 1] == used[1, 1] == 5
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    rows, columns = np.divmod(np.asarray(index), 4)
    here = np.stack(np.mgrid[:3, :4], -1)[:, :, None]
    away = np.abs(np.stack([rows, columns], -1) - here).max(-1)
    assert away[np.asarray(weights) > 0].max() == 1


def test_only_the_neighbourhood_is_compared():
    """No array of all pairs of cells, let alone for all sources."""
    feature = jax.ShapeDtypeStruct((60, 104, 384), "f4")

    def run(target, *sources):
        return nearest_cells(target, sources, jnp.ones(8, bool), 12, 5, 0.1)

    sizes = list(_sizes(jax.make_jaxpr(run)(feature, *[feature] * 8).jaxpr))
    assert max(sizes) < 8 * 85 * 129 * 384 < 6240**2


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns"):
                yield from _sizes(getattr(inner, "jaxpr", inner))

"""The contrastive loss of test-time adaptation: published numbers, bounds, memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops.contrast import MAX_LOSS, contrast_regions, contrastive_loss


@pytest.fixture(scope="module")
def golden(shared_dir):
    with np.load(shared_dir / "reference" / "golden" / "tta.npz") as file:
        return dict(file)


def regions_of(arrays: dict) -> tuple[jax.Array, jax.Array]:
    shape = (2, 3, -1)
    names = ("regions/posi", "regions/nega")
    return tuple(jnp.asarray(arrays[name][0].reshape(shape)) for name in names)


def test_the_published_regions(golden):
    inside, outside = contrast_regions(golden["regions/in"] > 0)
    assert np.array_equal(inside, golden["regions/posi"] > 0)
    assert np.array_equal(outside, golden["regions/nega"] > 0)


@pytest.mark.parametrize("case", ["contrast", "contrast_noisy"])
@pytest.mark.parametrize("rows", [448, 100])
def test_the_published_loss_and_gradient(golden, case, rows):
    regions = regions_of(golden)

    @jax.jit
    @jax.value_and_grad
    def loss(features):
        return contrastive_loss(features, *regions, rows)

    value, gradient = loss(jnp.asarray(golden[f"{case}/feats"]))
    expected = golden[f"{case}/grad"]
    np.testing.assert_allclose(value, golden[f"{case}/loss"], rtol=2e-5)
    np.testing.assert_allclose(gradient, expected, atol=2e-5 * np.abs(expected).max())


def test_both_directions_count(golden):
    """Swapped frames give another loss, since only one direction of the affinity sums to 1."""
    features = jnp.asarray(golden["contrast_noisy/feats"])
    positive, negative = regions_of(golden)
    loss = jax.jit(contrastive_loss)
    forward = loss(features, positive, negative)
    swapped = loss(features[::-1], positive[::-1], negative[::-1])
    assert not np.isclose(forward, swapped, rtol=1e-4)


def test_objects_without_cells_give_finite_gradients():
    features = jax.random.normal(jax.random.key(0), (2, 12, 4))
    some = jnp.zeros((2, 2, 12)).at[:, 0, :5].set(1)
    absent = some.at[1].set(0)  # the object is in the first frame only
    outside = 1 - some
    loss = jax.jit(jax.value_and_grad(contrastive_loss))
    for positive, bound in ((some, MAX_LOSS), (absent, MAX_LOSS / 2), (0 * some, 0)):
        value, gradient = loss(features, positive, outside)
        assert 0 <= value <= bound + 1e-6
        assert np.isfinite(gradient).all()
    assert loss(features, absent, outside)[0] == pytest.approx(MAX_LOSS / 2)
    assert loss(features, 0 * some, outside)[0] == 0
    # No region at all in the other frame.
    assert loss(features, absent, 0 * some)[0] == pytest.approx(MAX_LOSS / 2)


def test_no_matrix_of_all_pairs():
    features = jax.ShapeDtypeStruct((2, 6240, 384), "f4")
    regions = jax.ShapeDtypeStruct((2, 4, 6240), "f4")
    gradient = jax.grad(contrastive_loss)
    sizes = list(_sizes(jax.make_jaxpr(gradient)(features, regions, regions).jaxpr))
    assert max(sizes) < 6240**2 / 4


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (variable.aval.size for variable in equation.outvars)
        for inner in jax.tree.leaves(list(equation.params.values())):
            if hasattr(inner, "eqns"):
                yield from _sizes(getattr(inner, "jaxpr", inner))

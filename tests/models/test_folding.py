"""Frames folded into channels: the U-Net computes the same as without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.layers.folding import block_diagonal, fold, frames_together, unfold
from oclr_jax.models.oclr.unet import UNetDecoder, UNetEncoder


def rand(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(len(shape)).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("frames", [1, 2, 3, 4])
def test_unfolding_inverts_folding(frames):
    x = rand(6, 2, 3, 5)
    folded = fold(x, frames)
    assert folded.shape == (-(-6 // frames), 2, 3, 5 * frames)
    np.testing.assert_array_equal(unfold(folded, frames, 6), x)


def test_consecutive_frames_lie_side_by_side():
    x = rand(4, 1, 1, 3)
    np.testing.assert_array_equal(fold(x, 2)[1, 0, 0], jnp.concatenate([x[2, 0, 0], x[3, 0, 0]]))


def test_levels_fill_the_lanes():
    assert [frames_together(128, width) for width in (16, 32, 48, 64, 128, 512)] == [
        8,
        4,
        2,
        2,
        1,
        1,
    ]


def test_a_block_diagonal_kernel_does_to_each_frame_what_the_kernel_does():
    x, kernel = rand(4, 2, 3, 5), rand(5, 7)
    out = unfold(fold(x, 4) @ block_diagonal(kernel, 4), 4, 4)
    np.testing.assert_allclose(out, x @ kernel, atol=1e-5)


def test_a_unet_and_its_gradient_do_not_depend_on_folding():
    # With 16 lanes, the three frames fill one group of four, and one and a half of two.
    channels, x = (4, 8, 16), rand(3, 8, 8, 2)

    def unet(params, lanes):
        sizes = {
            "instance_norm": True,
            "dtype": np.dtype("float32"),
            "remat": False,
            "lanes": lanes,
        }
        *skips, bottleneck = UNetEncoder(channels, **sizes).apply({"params": params[0]}, x)
        decoder = UNetDecoder(channels, 3, **sizes)
        return decoder.apply({"params": params[1]}, bottleneck, skips)

    sizes = {"instance_norm": True, "dtype": np.dtype("float32"), "remat": False}
    features, encoder = UNetEncoder(channels, **sizes).init_with_output(jax.random.key(0), x)
    *skips, bottleneck = features
    decoder = UNetDecoder(channels, 3, **sizes).init(jax.random.key(1), bottleneck, skips)
    params = encoder["params"], decoder["params"]

    def results(lanes):
        def total(params):
            logits = unet(params, lanes)
            return (logits * rand(3, 8, 8, 3)).sum(), logits

        return jax.jit(jax.grad(total, has_aux=True))(params)

    (plain_slopes, plain), (slopes, folded) = results(1), results(16)
    np.testing.assert_allclose(folded, plain, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(slopes), jax.tree.leaves(plain_slopes), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(jnp.abs(theirs).max()))

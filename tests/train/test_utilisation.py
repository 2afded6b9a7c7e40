"""Counted operations against counts by hand; memory that grows when it is used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.record import utilisation
from oclr_jax.train.record.utilisation import machine_use, matrix_flops, peak_gib
from oclr_jax.train.tasks.segmentation import Segmentation, init_params


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_matrix_products_count_twice_their_multiplications():
    assert matrix_flops(jnp.matmul, shaped(3, 5), shaped(5, 7)) == 2 * 3 * 5 * 7
    product = lambda a, b: jnp.einsum("bij,bkj->bik", a, b)  # noqa: E731
    assert matrix_flops(product, shaped(4, 3, 5), shaped(4, 7, 5)) == 2 * 4 * 3 * 5 * 7


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_count_their_kernel_at_every_pixel(groups):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    count = matrix_flops(convolve, shaped(2, 8, 6, 4), shaped(3, 3, 4 // groups, 10))
    assert count == 2 * (2 * 4 * 3 * 10) * 3 * 3 * 4 // groups


def test_loops_and_nested_functions_count_as_often_as_they_run():
    @jax.jit
    def double(x):
        return jax.checkpoint(lambda y: y @ y)(x)

    assert matrix_flops(lambda x: jax.lax.map(double, x), shaped(5, 4, 4)) == 5 * 2 * 4**3


def test_the_model_costs_what_the_sums_over_its_layers_say():
    config = OCLRConfig(
        queries=2, channels=(4, 8), heads=2, feedforward=16, encoder_layers=1, decoder_layers=1
    )
    t, h, w, k, c = 3, 8, 6, 2, 8
    pixels, tokens = t * h * w, t * h * w // 4
    unet = 9 * pixels * (4 * 4 + 4 * 4) + 9 * tokens * (4 * c + c * c)  # encoder
    unet += tokens * c * 4 * 4 + 9 * pixels * (8 * 4 + 4 * 4) + pixels * 4 * k  # decoder
    # The means that instance norms expect, from a row of the input of each convolution.
    unet += t * ((4 * 4 + 4 * 4) + (4 * c + c * c) + (8 * 4 + 4 * 4))
    queries = k * t
    encoder = tokens * (4 * c * c + 2 * c * 16) + 2 * tokens * tokens * c
    decoder = queries * (4 * c * c + 2 * c * 16) + 2 * queries * queries * c
    decoder += (2 * queries + 2 * tokens) * c * c + 2 * queries * tokens * c
    maps = tokens * k * c + tokens * (k * 2) * c
    order = k * c * c + k * c
    positions = tokens * 3 * c + t * c
    params = jax.eval_shape(lambda: init_params(OCLR(config), 0))
    apply = lambda params, flow: OCLR(config).apply({"params": params}, flow)  # noqa: E731
    counted = matrix_flops(apply, params, shaped(1, t, h, w, 4))
    assert counted == 2 * (unet + encoder + decoder + maps + order + positions)
    sized = dataclasses.replace(config, frames=t, height=h, width=w)
    assert Segmentation(OCLR(sized), LossWeights()).step_flops(4) == 3 * 4 * counted


def test_memory_in_use_is_measured():
    before = peak_gib()
    held = np.ones(2**27, np.uint8)
    assert peak_gib() >= before > 0
    assert held[0] == 1


def test_utilisation_is_the_share_of_a_known_peak(monkeypatch):
    assert "mfu" not in machine_use(1e12)
    assert machine_use(3e12)["tflops_per_s"] == 3.0
    kind = jax.local_devices()[0].device_kind
    monkeypatch.setitem(utilisation.PEAK_FLOPS, kind, 4e12)
    assert machine_use(1e12)["mfu"] == pytest.approx(0.25 / jax.device_count())

"""Losses, composition and matching against numbers of the published program.

The golden arrays are `b t k h w` with ground-truth layers back to front; `golden` brings them to
this project's `b t h w k`, front to back.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops import layering, losses, matching

FILE = Path(__file__).parents[1] / "golden" / "losses.npz"
CASES = ["same_res", "double_res_disjoint", "empty_layer", "single_layer"]


def channels_last(array):
    return jnp.moveaxis(jnp.asarray(array), 2, -1)


@pytest.fixture(params=CASES)
def golden(request):
    with np.load(FILE) as file:
        prefix = request.param + "/"
        case = {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}
    case["logits"] = channels_last(case["in_amodal_raw"])
    step = case["in_gt_amodal"].shape[-1] // case["in_amodal_raw"].shape[-1]
    case["amodal_full"] = channels_last(case["in_gt_amodal"])[..., ::-1]
    case["amodal"] = case["amodal_full"][:, :, ::step, ::step]
    case["modal_truth"] = channels_last(case["gt_modal"])[:, :, ::step, ::step, ::-1]
    return {name: jnp.asarray(array) for name, array in case.items()}


def value_and_grads(function, *args):
    # Compiled as a whole, which takes less time than to compile every operation alone.
    return jax.jit(jax.value_and_grad(function, argnums=tuple(range(len(args)))))(*args)


# The golden file has unmatched predictions with layers in its own order; these functions undo it.
def test_amodal_loss(golden):
    value, (grad,) = value_and_grads(
        lambda x: losses.amodal_loss(x, golden["amodal"][..., ::-1]), golden["logits"]
    )
    np.testing.assert_allclose(value, golden["amodal_bce"], rtol=1e-6)
    np.testing.assert_allclose(grad, channels_last(golden["amodal_bce_grad"]), rtol=1e-4, atol=1e-9)


def test_boundary_loss(golden):
    amodal = golden["amodal"][..., ::-1]
    band = losses.boundary_band(amodal)
    truth = golden["boundary"].reshape(golden["in_amodal_raw"].shape)
    np.testing.assert_array_equal(band, channels_last(truth))
    value, (grad,) = value_and_grads(lambda x: losses.boundary_loss(x, amodal), golden["logits"])
    np.testing.assert_allclose(value, golden["amodal_bound"], rtol=1e-6)
    np.testing.assert_allclose(
        grad, channels_last(golden["amodal_bound_grad"]), rtol=1e-4, atol=1e-9
    )


def test_boundary_at_the_image_border():
    with np.load(FILE) as file:
        mask, band = file["boundary_edge/in"], file["boundary_edge/out"]
    ours = losses.boundary_band(channels_last(mask[:, None]))
    np.testing.assert_array_equal(ours, channels_last(band[:, None]))


def test_order_loss(golden):
    def loss(order):
        return losses.order_loss(order.mean(axis=1)[:, ::-1], golden["amodal"])

    value, (grad,) = value_and_grads(loss, golden["in_order_raw"])
    np.testing.assert_allclose(value, golden["order"], rtol=1e-5)
    if "order_grad" in golden:
        np.testing.assert_allclose(grad, golden["order_grad"], rtol=1e-4, atol=1e-8)
    else:
        assert not np.any(grad)


def test_soft_modal_and_its_loss(golden):
    soft = jax.jit(layering.soft_modal)(jax.nn.sigmoid(golden["logits"]), golden["in_order_raw"])
    np.testing.assert_allclose(soft, channels_last(golden["modal_soft"]), atol=1e-6)
    value, (by_logits, by_order) = value_and_grads(
        lambda x, order: losses.modal_loss(x, order, golden["modal_truth"][..., ::-1]),
        golden["logits"],
        golden["in_order_raw"],
    )
    np.testing.assert_allclose(value, golden["modal"], rtol=1e-6)
    truth = channels_last(golden["modal_grad_raw"])
    np.testing.assert_allclose(by_logits, truth, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(by_order, golden["modal_grad_order"], rtol=1e-3, atol=1e-8)


def test_hard_modal(golden):
    ours = layering.hard_modal(golden["logits"] > 0, golden["in_order_raw"])
    np.testing.assert_array_equal(ours, channels_last(golden["modal_hard"]))


def test_modal_truth_is_the_composed_amodal_truth(golden):
    front_to_back = jnp.arange(golden["amodal"].shape[-1], dtype=jnp.float32)[None, None]
    full = layering.hard_modal(golden["amodal_full"].astype(bool), front_to_back)
    truth = channels_last(golden["gt_modal"])[..., ::-1]
    np.testing.assert_array_equal(full, truth)


def test_matching(golden):
    amodal = golden["amodal"][..., ::-1]
    match = matching.match_layers(matching.pairwise_bce(golden["logits"], amodal))
    np.testing.assert_array_equal(match, golden["hungarian_perm"])
    order = matching.take_layers(golden["in_order_raw"], match)
    np.testing.assert_array_equal(order, golden["hungarian_order"])


def test_matched_iou(golden):
    truth = golden["amodal_full"].astype(bool)[..., ::-1]
    step = truth.shape[2] // golden["logits"].shape[2]
    masks = (golden["logits"] > 0).repeat(step, axis=2).repeat(step, axis=3)
    match = matching.match_layers(-matching.pairwise_iou(masks, truth).mean(axis=1))
    np.testing.assert_array_equal(match, golden["hungarian_iou_perm"])
    iou, there = matching.matched_iou(masks, truth)
    per_frame = np.sum(iou * there, axis=-1) / np.sum(there, axis=-1)
    np.testing.assert_allclose(per_frame, golden["iou_frame"], rtol=1e-5)


def test_total(golden):
    def loss(logits, order):
        return losses.layered_loss(
            logits,
            order,
            golden["amodal"],
            golden["modal_truth"],
            losses.LossWeights(boundary=0.2, order=0.05, modal=0.1),
        )[0]

    value, (by_logits, by_order) = value_and_grads(loss, golden["logits"], golden["in_order_raw"])
    np.testing.assert_allclose(value, golden["total"], rtol=1e-6)
    truth = channels_last(golden["total_grad_raw"])
    np.testing.assert_allclose(by_logits, truth, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(by_order, golden["total_grad_order"], rtol=1e-3, atol=1e-8)

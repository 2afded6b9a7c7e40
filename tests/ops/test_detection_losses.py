"""Targets and losses of detection, worked out by hand or with plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np

from oclr_jax.ops.boxes import encode_boxes
from oclr_jax.ops.detection_losses import (
    HEAD_SCALE,
    Samples,
    box_loss,
    label_anchors,
    label_proposals,
    mask_loss,
    sample_boxes,
)

BOXES = jnp.array([[0.0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 0, 0]])
THERE = jnp.array([True, True, False])


def test_anchors_are_objects_by_overlap_or_because_none_is_better():
    anchors = jnp.array(
        [
            [0.0, 0, 10, 9],  # 0.9 with the first
            [0, 0, 10, 5],  # 0.5: neither
            [25, 0, 35, 10],  # 1/3 with the second, the best there is
            [50, 50, 60, 60],
        ]
    )
    label, object = label_anchors(anchors, BOXES, THERE)
    assert label.tolist() == [1, -1, 1, 0] and object.tolist()[::2] == [0, 1]
    label, _ = label_anchors(anchors, BOXES, jnp.zeros(3, bool))
    assert label.tolist() == [0, 0, 0, 0]


def test_proposals_are_objects_from_one_half_on():
    proposals = jnp.array([[0.0, 0, 10, 5], [0, 0, 10, 4], [20, 0, 30, 10], [20, 0, 30, 10]])
    label, object = label_proposals(proposals, jnp.array([True, True, True, False]), BOXES, THERE)
    assert label.tolist() == [1, 0, 1, -1] and object.tolist()[2] == 1


def test_samples_are_objects_first_up_to_their_share():
    label = jnp.array([1] * 6 + [0] * 10 + [-1] * 4)
    object = jnp.arange(20)
    draws = [sample_boxes(jax.random.key(i), label, object, 8, 2) for i in range(30)]
    for draw in draws:
        assert draw.label.tolist() == [1, 1] + [0] * 6
        assert len(set(draw.index.tolist())) == 8
        assert (draw.object == draw.index).all() and (label[draw.index] == draw.label).all()
    assert {int(i) for draw in draws for i in draw.index[:2]} == set(range(6))
    assert {int(i) for draw in draws for i in draw.index[2:]} == set(range(6, 16))
    few = sample_boxes(jax.random.key(0), jnp.array([0, -1, 1]), jnp.arange(3), 8, 4)
    assert few.label.tolist() == [1, 0, -1]


def test_box_losses_by_hand():
    anchors = jnp.array([[0.0, 0, 8, 8], [20, 0, 30, 10], [40, 40, 50, 50], [0, 0, 0, 0]])
    samples = Samples(jnp.arange(4), jnp.array([1, 1, 0, -1]), jnp.array([0, 1, 0, 2]))
    logits = jnp.array([2.0, -1, -3, 100])

    def losses(deltas, scale):
        found = box_loss(logits, deltas, samples, anchors, BOXES, scale)
        return found[1], found

    losses = jax.jit(jax.grad(losses, has_aux=True), static_argnums=1)
    for scale in ((1.0, 1.0), HEAD_SCALE):
        wanted = np.asarray(encode_boxes(BOXES[:2], anchors[:2], scale))
        deltas = jnp.zeros((4, 4)).at[2:].set(1e6)
        gradient, (scores, regression) = losses(deltas, scale)
        np.testing.assert_allclose(scores, np.log1p(np.exp([-2, 1, -3.0])).sum() / 3, rtol=1e-5)
        size, beta = np.abs(wanted), 1 / 9
        smooth = np.where(size < beta, size**2 / 2 / beta, size - beta / 2)
        np.testing.assert_allclose(regression, smooth.sum() / 3, rtol=1e-4)
        gradient = np.asarray(gradient)
        assert np.isfinite(gradient).all() and not gradient[2:].any()


def test_mask_loss_sees_the_right_object_inside_the_box():
    masks = np.zeros((16, 24, 2), bool)
    masks[4:12, 4:8, 0] = True  # the left half of the box
    masks[4:12, 8:12, 1] = True  # the right half
    boxes = jnp.array([[4.0, 4, 12, 12]] * 3)
    logits = jnp.where(jnp.arange(4) < 2, 5.0, -5.0) * jnp.ones((3, 4, 4))
    right, wrong = np.log1p(np.exp(-5.0)), np.log1p(np.exp(5.0))
    for labels, expected in (([1, 0, -1], right), ([1, 1, 0], (right + wrong) / 2), ([0] * 3, 0)):
        samples = Samples(jnp.arange(3), jnp.array(labels), jnp.array([0, 1, 0]))
        loss = jax.jit(mask_loss)(logits, samples, boxes, jnp.asarray(masks))
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-7)

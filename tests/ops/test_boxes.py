"""Anchors, regression, suppression and crops of boxes, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.ops import boxes as ops

STRIDES = (4, 8)
# Compiled as a whole, which takes less time than to compile every operation alone.
roi_align = jax.jit(ops.roi_align, static_argnums=(1, 4))
paste_masks = jax.jit(ops.paste_masks, static_argnums=(2, 3))


def random_boxes(count: int, seed: int = 0, height: int = 40, width: int = 56) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-4, [width - 8, height - 8], (count, 2))
    size = rng.uniform(2, 30, (count, 2))
    return np.concatenate([corner, corner + size], axis=1).astype(np.float32)


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return both / (area - both)


def test_anchors_have_one_area_per_level_and_lie_on_cells():
    levels = ops.make_anchors(18, 30, STRIDES)
    assert [len(level) for level in levels] == [5 * 8 * 3, 3 * 4 * 3]
    for stride, level in zip(STRIDES, levels, strict=True):
        size = level[:, 2:] - level[:, :2]
        np.testing.assert_allclose(size.prod(axis=1), (2 * stride) ** 2, rtol=1e-5)
        np.testing.assert_allclose(size[:3, 1] / size[:3, 0], ops.RATIOS, rtol=1e-5)
        center = (level[:, 2:] + level[:, :2]) / 2
        np.testing.assert_allclose(center[:3], stride / 2)
        np.testing.assert_allclose(center[3], (1.5 * stride, 0.5 * stride))


def test_regression_is_inverted_and_stays_finite():
    boxes, anchors = jnp.asarray(random_boxes(9)), jnp.asarray(random_boxes(9, seed=1))
    for scale in ((1.0, 1.0), (10.0, 5.0)):
        deltas = ops.encode_boxes(boxes, anchors, scale)
        np.testing.assert_allclose(ops.decode_boxes(deltas, anchors, scale), boxes, atol=1e-3)
    square = jnp.array([0.0, 0, 4, 4])
    moved = ops.encode_boxes(jnp.array([2.0, 0, 6, 8]), square, (10.0, 5.0))
    np.testing.assert_allclose(moved, [5, 5, 0, 5 * np.log(2)], atol=1e-5)
    assert np.isfinite(ops.decode_boxes(jnp.full(4, 1e4), square)).all()


def test_iou_and_clipping():
    boxes, others = random_boxes(6), random_boxes(5, seed=1)
    found = ops.pairwise_box_iou(jnp.asarray(boxes), jnp.asarray(others))
    wanted = [[plain_iou(a, b) for b in others] for a in boxes]
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    empty = jnp.zeros((1, 4))
    assert float(ops.pairwise_box_iou(empty, empty)[0, 0]) == 0
    clipped = ops.clip_boxes(jnp.array([[-3.0, -2, 99, 9]]), 8, 50)
    assert clipped.tolist() == [[0, 0, 50, 8]]


@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.7])
def test_suppression_inside_jit_is_the_greedy_one(threshold):
    boxes = random_boxes(40)
    boxes[20:] = boxes[:20] + np.random.default_rng(3).uniform(-2, 2, (20, 4))
    scores = np.random.default_rng(2).integers(0, 12, 40).astype(np.float32)  # with ties
    scores[5] = -np.inf
    kept = []
    for index in np.argsort(-scores, kind="stable"):
        clear = all(plain_iou(boxes[index], boxes[other]) <= threshold for other in kept)
        if clear and np.isfinite(scores[index]):
            kept.append(index)
    found = jax.jit(ops.suppress, static_argnums=2)(boxes, scores, threshold)
    assert set(np.flatnonzero(found)) == set(kept) and 5 < len(kept) < 39


def plain_roi_align(features, stride, box, size, samples):
    """Bin by bin, sample by sample."""
    rows, columns, channels = features.shape
    left, top, right, bottom = box / stride - 0.5
    crop = np.zeros((size, size, channels))
    for i, j in np.ndindex(size, size):
        for a, b in np.ndindex(samples, samples):
            y = top + (i + (a + 0.5) / samples) * (bottom - top) / size
            x = left + (j + (b + 0.5) / samples) * (right - left) / size
            y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            value = (
                features[y0, x0] * (1 - y + y0) * (1 - x + x0)
                + features[y0, x1] * (1 - y + y0) * (x - x0)
                + features[y1, x0] * (y - y0) * (1 - x + x0)
                + features[y1, x1] * (y - y0) * (x - x0)
            )
            crop[i, j] += value / samples**2
    return crop


def test_roi_align_against_plain_loops():
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=(10, 14, 3)), rng.normal(size=(5, 7, 3))]
    boxes, level = random_boxes(7), np.array([0, 1, 1, 0, 0, 1, 0])
    found = roi_align([jnp.asarray(x, jnp.float32) for x in levels], STRIDES, boxes, level, 4)
    for crop, box, at in zip(found, boxes, level, strict=True):
        wanted = plain_roi_align(levels[at], STRIDES[at], box.astype(float), 4, 2)
        np.testing.assert_allclose(crop, wanted, atol=1e-4)


def test_roi_align_of_a_ramp_is_exact_and_differentiable():
    """A linear function of the place is sampled without error, with pixel centres at one half."""
    y, x = np.meshgrid(4 * np.arange(10) + 2.0, 4 * np.arange(14) + 2.0, indexing="ij")
    ramp = jnp.asarray(np.stack([x, y], axis=-1), jnp.float32)
    box = jnp.array([[10.0, 6, 30, 26]])

    def total(features):
        crop = ops.roi_align([features], (4,), box, jnp.zeros(1, jnp.int32), 5)
        return crop.sum(), crop

    gradient, crop = jax.jit(jax.grad(total, has_aux=True))(ramp)
    centers = np.arange(5) * 4 + 2.0
    np.testing.assert_allclose(crop[0, 0, :, 0], 10 + centers, atol=1e-4)
    np.testing.assert_allclose(crop[0, :, 0, 1], 6 + centers, atol=1e-4)
    np.testing.assert_allclose(gradient.sum(), 5 * 5 * 2, rtol=1e-5)


def test_levels_follow_the_size_of_a_box():
    sides = [10, 111, 113, 223, 225, 449, 5000]
    boxes = jnp.array([[0.0, 0, side, side] for side in sides])
    assert ops.crop_levels(boxes, 4).tolist() == [0, 0, 1, 1, 2, 3, 3]


def test_pasted_masks_fill_their_boxes():
    boxes = jnp.array([[8.0, 4, 24, 12], [0, 0, 40, 30], [3, 3, 3, 3]])
    masks = np.ones((3, 4, 4), np.float32)
    masks[1, :, :2] = 0
    found = np.asarray(paste_masks(jnp.asarray(masks), boxes, 30, 40))
    wanted = np.zeros((30, 40))
    wanted[4:12, 8:24] = 1
    np.testing.assert_allclose(found[0], wanted, atol=1e-5)
    assert (found[1][:, 21:] > 0.5).all() and (found[1][:, :19] < 0.5).all()
    assert np.isfinite(found).all()


def test_crops_of_a_pasted_mask_give_it_back():
    mask = np.zeros((1, 8, 8), np.float32)
    mask[0, 2:6, 1:5] = 1
    box = jnp.array([[4.0, 4, 36, 36]])
    pasted = paste_masks(jnp.asarray(mask), box, 40, 40)
    crop = roi_align([pasted[0][..., None]], (1,), box, jnp.zeros(1, jnp.int32), 8)
    np.testing.assert_array_equal(crop[0, ..., 0] > 0.5, mask[0] > 0.5)


def test_boxes_of_masks():
    masks = np.zeros((6, 9, 3), bool)
    masks[1:4, 2:7, 0] = True
    masks[5, 8, 2] = True
    boxes, there = ops.boxes_of_masks(jnp.asarray(masks))
    assert boxes.tolist() == [[2, 1, 7, 4], [0, 0, 0, 0], [8, 5, 9, 6]]
    assert there.tolist() == [True, False, True]

"""The metrics against numbers of the official evaluators, and against direct definitions."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation

from oclr_jax.ops.boundary import boundary_f
from oclr_jax.ops.metrics import (
    assign,
    border_share,
    box_iou,
    detected_box,
    jaccard,
    order_accuracy,
    statistics,
    success_rates,
)
from oclr_jax.video.png import read_ids

GOLDEN = Path(__file__).parents[1] / "golden" / "davis_metrics.npz"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


def masks_480p(golden):
    return [
        np.unpackbits(golden[f"big_{name}"], axis=-1)[..., :854].astype(bool)
        for name in ("pred", "gt", "void")
    ]


def test_official_numbers(golden):
    masks = golden["pred"], golden["gt"]
    assert np.array_equal(jaccard(*masks), golden["J"])
    np.testing.assert_allclose(boundary_f(*masks), golden["F"], atol=1e-12)


def test_official_numbers_at_480p(golden):
    predicted, truth, void = masks_480p(golden)
    assert np.array_equal(jaccard(predicted, truth), golden["big_J"])
    np.testing.assert_allclose(boundary_f(predicted, truth), golden["big_F"], atol=1e-12)
    np.testing.assert_allclose(jaccard(predicted, truth, void), golden["big_J_void"], atol=1e-12)
    np.testing.assert_allclose(boundary_f(predicted, truth, void), golden["big_F_void"], atol=1e-12)


def test_official_statistics(golden):
    np.testing.assert_allclose(statistics(golden["J"]), golden["stats_J"], atol=1e-12)
    np.testing.assert_allclose(statistics(golden["F"]), golden["stats_F"], atol=1e-12)


@pytest.mark.parametrize("shift", ["right7", "diag7", "right12"])
@pytest.mark.parametrize("sequence", ["blackswan", "horsejump-high"])
def test_official_numbers_on_shifted_annotations(shared_dir, sequence, shift):
    folder = shared_dir / "data" / "davis2016_dev" / "Annotations" / "480p" / sequence
    if not folder.is_dir():
        pytest.skip("needs the real sequences, which are not here")
    wanted = json.loads((shared_dir / "reference" / "davis_eval_numbers.json").read_text())
    wanted = wanted[f"{sequence}/{shift}"]
    truth = np.stack([read_ids(path) > 0 for path in sorted(folder.glob("*.png"))])
    down, right = {"right7": (0, 7), "diag7": (7, 7), "right12": (0, 12)}[shift]
    shifted = np.zeros_like(truth)
    shifted[:, down:, right:] = truth[:, : 480 - down, : 854 - right]
    j, f = jaccard(shifted, truth), boundary_f(shifted, truth)
    np.testing.assert_allclose(statistics(j), wanted["J_stats_MRD"], atol=1e-9)
    np.testing.assert_allclose(statistics(f), wanted["F_stats_MRD"], atol=1e-9)
    np.testing.assert_allclose(f[:3], wanted["F_first3"], atol=1e-9)
    np.testing.assert_allclose(j[1:-1].mean(), wanted["J_mean_1_m1"], atol=1e-9)


def plain_f(predicted, truth, void):
    """F from its definition, pixel by pixel."""
    edges = []
    for mask in (predicted & ~void, truth & ~void):
        padded = np.pad(mask, ((0, 1), (0, 1)), "edge")
        down, right, both = padded[1:, :-1], padded[:-1, 1:], padded[1:, 1:]
        edge = (mask != down) | (mask != right)
        # The diagonal neighbour counts only where it is inside the image.
        edge[:-1, :-1] |= (mask != both)[:-1, :-1]
        edges.append(edge)
    radius = int(np.ceil(0.008 * np.hypot(*predicted.shape)))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = x**2 + y**2 <= radius**2
    counts = [edge.sum() for edge in edges]
    if not all(counts):
        return float(counts[0] == counts[1])
    precision = (edges[0] & binary_dilation(edges[1], disk)).sum() / counts[0]
    recall = (edges[1] & binary_dilation(edges[0], disk)).sum() / counts[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_f_against_its_definition(data):
    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 140))
    cells = arrays(bool, (-(-height // 9), -(-width // 9)), elements=st.booleans())
    predicted, truth, void = (
        np.kron(data.draw(cells), np.ones((9, 9), bool))[:height, :width] for _ in range(3)
    )
    wanted = plain_f(predicted, truth, void)
    assert boundary_f(predicted, truth, void) == pytest.approx(wanted, abs=1e-12)
    assert boundary_f(truth, predicted, void) == pytest.approx(wanted, abs=1e-12)
    assert boundary_f(truth, truth) == 1


@pytest.mark.parametrize("width", [63, 64, 65, 127, 128, 854, 2000])
def test_f_at_word_and_image_borders(width):
    rng = np.random.default_rng(width)
    for _ in range(5):
        masks = rng.random((3, 40, width)) < 0.02
        masks[:2, -1] |= rng.random((2, width)) < 0.3
        masks[:2, :, -1] |= rng.random((2, 40)) < 0.3
        assert boundary_f(*masks) == pytest.approx(plain_f(*masks), abs=1e-12)


def test_empty_masks():
    empty, full = np.zeros((4, 5), bool), np.ones((4, 5), bool)
    part = full.copy()
    part[0] = False
    for metric in (jaccard, boundary_f):
        assert metric(empty, empty) == 1
        assert metric(empty, part) == metric(part, empty) == 0
        assert metric(np.stack([empty, full]), np.stack([empty, full])).tolist() == [1, 1]
        assert metric(part, empty, void=part) == 1


def test_statistics_of_one_frame_and_of_many():
    assert statistics(np.array([0.5])) == (0.5, 0.0, 0.0)
    values = np.repeat([1.0, 0.0], 600)
    assert statistics(values) == (0.5, 0.5, 1.0)


def test_assignment_maximises_the_total():
    assert assign(np.array([[0.9, 0.8], [0.8, 0.0]])) == [(0, 1), (1, 0)]
    assert assign(np.zeros((0, 2))) == []


def test_detected_box():
    mask = np.zeros((20, 30), bool)
    assert detected_box(mask) is None
    mask[2:6, 3:9] = mask[10:12, 20:22] = True
    assert detected_box(mask) == (3, 2, 9, 6)
    # A mask that covers the border is inverted.
    assert detected_box(~mask) == (3, 2, 9, 6)
    assert border_share(mask) == 0 and border_share(~mask) == 1


def test_box_iou():
    assert box_iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert box_iou((0, 0, 2, 2), (2, 0, 3, 3)) == 0
    assert box_iou((0, 0, 2, 2), (0, 0, 2, 2)) == 1


def test_success_is_strictly_above_the_threshold():
    assert success_rates(np.array([0.5, 0.65, 0.95])).tolist() == pytest.approx(
        [2 / 3, 2 / 3, 1 / 3, 1 / 3, 1 / 3]
    )
    assert np.isnan(success_rates(np.zeros(0))).all()


def test_order_accuracy_counts_pairs_that_overlap():
    amodal = np.zeros((2, 4, 12, 3), bool)
    amodal[0, :, :5, 0] = amodal[0, :, 4:9, 1] = amodal[1, :, 8:, 2] = True
    depth, truth = np.array([0.3, 0.1, 0.2]), np.array([0, 1, 2])
    assert order_accuracy(depth, truth, amodal) == (0, 1)
    amodal[0, :, 8:, 2] = True  # now 1 and 2 overlap as well
    assert order_accuracy(depth, truth, amodal) == (1, 2)

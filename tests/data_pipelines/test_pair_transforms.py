"""Augmented pairs: their flow still maps the first frame to the second."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loaders.pair_transforms import (
    FramePair,
    PairAugmentation,
    augment_pair,
    flip_pair,
    scale_pair,
)
from oclr_jax.ops.flow_metrics import photometric_error

COLORLESS = dataclasses.replace(
    PairAugmentation(), brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, noise=0.0, erased=0.0
)


def turned_pair(height=96, width=128) -> FramePair:
    """A smooth picture and the same one turned and zoomed; the flow is exact."""
    rng = np.random.default_rng(0)
    blurred = cv2.GaussianBlur(
        rng.uniform(0, 255, (height, width, 3)).astype(np.float32), (0, 0), 4
    )
    second = cv2.normalize(blurred, None, 0, 255, cv2.NORM_MINMAX)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), 4, 1.03)
    y, x = np.indices((height, width), np.float32)
    flow = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T.astype(np.float32)
    flow -= np.stack([x, y], -1)
    first = cv2.remap(
        second, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, cv2.BORDER_REPLICATE
    )
    return FramePair(
        first=np.rint(first).astype(np.uint8),
        second=np.rint(second).astype(np.uint8),
        flow=flow,
        valid=np.ones((height, width), bool),
    )


def explained(pair: FramePair) -> float:
    """Mean difference in grey levels along the flow, away from the border."""
    inner = np.s_[12:-12, 12:-12]
    y, x = np.indices(pair["valid"].shape, np.float32)
    pulled = cv2.remap(
        pair["second"], x + pair["flow"][..., 0], y + pair["flow"][..., 1], cv2.INTER_LINEAR
    )
    return np.abs(pulled[inner].astype(float) - pair["first"][inner]).mean()


def test_the_pair_of_these_tests_is_explained_by_its_flow():
    pair = turned_pair()
    assert explained(pair) < 1
    assert photometric_error(pair["first"], pair["second"]) > 5


@pytest.mark.parametrize("axis", [0, 1])
def test_flips(axis):
    pair = flip_pair(turned_pair(), axis)
    assert explained(FramePair(**{k: np.ascontiguousarray(v) for k, v in pair.items()})) < 1


@pytest.mark.parametrize("size", [(60, 128), (96, 200), (150, 90)])
def test_scaling(size):
    assert explained(scale_pair(turned_pair(), *size)) < 1.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_augmented_pairs_are_explained_by_their_flow(seed):
    pair = augment_pair(turned_pair(), np.random.default_rng(seed), (64, 80), COLORLESS)
    assert pair["first"].shape == pair["second"].shape == (64, 80, 3)
    assert pair["valid"].all()
    assert explained(pair) < 1.5


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_colors_change_and_flow_does_not(seed):
    still = dataclasses.replace(
        PairAugmentation(), scaled=0.0, flip_horizontal=0.0, flip_vertical=0.0
    )
    pair = turned_pair()
    varied = augment_pair(pair, np.random.default_rng(seed), (96, 128), still)
    np.testing.assert_array_equal(varied["flow"], pair["flow"])
    assert varied["first"].dtype == varied["second"].dtype == np.uint8
    assert (varied["first"] != pair["first"]).any()


def test_frames_change_colours_together_or_apart():
    pair = turned_pair()
    pair["second"] = pair["first"]
    same = dataclasses.replace(COLORLESS, brightness=0.4, asymmetric=0.0)
    apart = dataclasses.replace(COLORLESS, brightness=0.4, asymmetric=1.0)
    for changes, equal in ((same, True), (apart, False)):
        varied = augment_pair(pair, np.random.default_rng(0), (96, 128), changes)
        assert (varied["first"] == varied["second"]).all() == equal


def test_unknown_flow_stays_unknown():
    pair = turned_pair()
    pair["valid"][:, :64] = False
    assert not scale_pair(pair, 150, 200)["valid"][:, :100].any()
    assert scale_pair(pair, 150, 200)["valid"][:, 104:].all()


def test_a_crop_larger_than_the_frame_raises():
    with pytest.raises(ValueError, match="does not fit"):
        augment_pair(turned_pair(), np.random.default_rng(0), (97, 80), PairAugmentation())

"""The effect of every clip transform on the flow and masks of a moving object."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.loaders.clip_transforms import (
    FlowClip,
    add_camera,
    crop_zoom,
    drop_unseen,
    flip_horizontal,
    flip_vertical,
    random_camera,
    random_window,
    resize_clip,
    reverse_time,
    scale_speed,
)
from tests.data_pipelines.squares import H, K, T, W, assert_equal, moving_squares


@pytest.fixture
def clip() -> FlowClip:
    return moving_squares([(2, 1), (-1, -2)])


def assert_flow_carries_masks(clip: FlowClip) -> None:
    """Every amodal pixel of a frame, carried along its layer's flow, is one in the next frame."""
    for t in range(T - 1):
        for here, there, channels in ((t, t + 1, slice(0, 2)), (t + 1, t, slice(2, 4))):
            for k in range(2):
                flow = clip["flow"][here][clip["modal"][here, ..., k] == 1][:, channels]
                (u, v) = np.unique(flow, axis=0).astype(int)[0]
                moved = np.roll(clip["amodal"][here, ..., k], (v, u), (0, 1))
                np.testing.assert_array_equal(moved, clip["amodal"][there, ..., k])


@pytest.mark.parametrize("change", [flip_horizontal, flip_vertical, reverse_time])
def test_flips_keep_flow_and_masks_aligned(change, clip):
    assert_flow_carries_masks(clip)
    changed = change(clip)
    assert_flow_carries_masks(changed)
    assert (changed["flow"] != clip["flow"]).any()
    assert_equal(change(changed), clip)


def test_flip_horizontal_negates_u_alone(clip):
    changed = flip_horizontal(clip)
    np.testing.assert_array_equal(changed["flow"][:, :, ::-1, 0], -clip["flow"][..., 0])
    np.testing.assert_array_equal(changed["flow"][:, :, ::-1, 1], clip["flow"][..., 1])


def test_flip_vertical_negates_v_alone(clip):
    changed = flip_vertical(clip)
    np.testing.assert_array_equal(changed["flow"][:, ::-1, :, 2], clip["flow"][..., 2])
    np.testing.assert_array_equal(changed["flow"][:, ::-1, :, 3], -clip["flow"][..., 3])


def test_reverse_time_swaps_the_gaps(clip):
    changed = reverse_time(clip)
    np.testing.assert_array_equal(changed["flow"][0, ..., :2], clip["flow"][-1, ..., 2:])


def test_scale_speed_scales_flow_alone(clip):
    changed = scale_speed(clip, 1.5)
    np.testing.assert_allclose(changed["flow"], 1.5 * clip["flow"])
    np.testing.assert_array_equal(changed["amodal"], clip["amodal"])


def affine_clip(height: int, width: int) -> FlowClip:
    """Flow u = 0.1 x and v = 0.2 y about the upper left corner, in pixel centres."""
    y, x = np.mgrid[:height, :width] + 0.5
    flow = np.stack([0.1 * x, 0.2 * y, -0.1 * x, -0.2 * y], -1).astype(np.float32)
    masks = np.zeros((2, height, width, K), np.uint8)
    masks[:, height // 4 : height // 2, width // 4 : width // 2, 0] = 1
    return FlowClip(flow=np.stack([flow, flow]), amodal=masks, modal=masks.copy())


def test_zoom_scales_flow_with_the_image():
    # On the zoomed grid a pixel is twice as far from the window's corner as before, so that the
    # same field about the window's corner is linear with the same slope.
    zoomed = crop_zoom(affine_clip(H, W), (4, 8, H // 2, W // 2))
    y, x = np.mgrid[:H, :W] + 0.5
    inside = np.s_[2:-2, 2:-2]  # interpolation clamps at the window's border
    expected_u, expected_v = 0.1 * (x + 2 * 8), 0.2 * (y + 2 * 4)
    np.testing.assert_allclose(zoomed["flow"][0, ..., 0][inside], expected_u[inside], atol=1e-4)
    np.testing.assert_allclose(zoomed["flow"][0, ..., 3][inside], -expected_v[inside], atol=1e-4)
    # The square's corner (6, 8) comes to 2 * (6 - 4), 2 * (8 - 8).
    assert zoomed["modal"][0, ..., 0].sum() == 4 * (H // 4) * (W // 4)
    assert zoomed["modal"][0, 4, 0, 0] == 1 and zoomed["modal"][0, 3, 0, 0] == 0


def test_resize_changes_the_grid_of_flow_and_masks(clip):
    assert resize_clip(clip, H, W) is clip
    small = resize_clip(affine_clip(H, W), H // 2, W // 4)
    y, x = np.mgrid[: H // 2, : W // 4] + 0.5
    np.testing.assert_allclose(small["flow"][0, ..., 0], 0.1 * x, atol=1e-5)
    np.testing.assert_allclose(small["flow"][0, ..., 1], 0.2 * y, atol=1e-5)
    assert small["amodal"].sum() == affine_clip(H, W)["amodal"].sum() / 8


def test_masks_are_sampled_at_pixel_centres():
    masks = np.zeros((1, 9, 9, K), np.uint8)
    masks[:, 4, 7] = 1
    clip = FlowClip(flow=np.zeros((1, 9, 9, 4), np.float32), amodal=masks, modal=masks)
    small = resize_clip(clip, 3, 3)["amodal"][0, ..., 0]
    assert np.argwhere(small).tolist() == [[1, 2]]


@given(
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    grid=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_resized_masks_stay_consistent(size, grid, seed):
    rng = np.random.default_rng(seed)
    amodal = rng.integers(0, 2, (1, *size, K), dtype=np.uint8)
    modal = amodal * rng.integers(0, 2, amodal.shape, dtype=np.uint8)
    flow = np.ones((1, *size, 4), np.float32)
    resized = resize_clip(FlowClip(flow=flow, amodal=amodal, modal=modal), *grid)
    assert (resized["modal"] <= resized["amodal"]).all()
    np.testing.assert_allclose(resized["flow"][..., 0], grid[1] / size[1], rtol=1e-5)
    np.testing.assert_allclose(resized["flow"][..., 1], grid[0] / size[0], rtol=1e-5)
    if grid[0] >= size[0] and grid[1] >= size[1]:  # growing loses no pixel
        assert resized["amodal"].any(axis=(1, 2)).tolist() == amodal.any(axis=(1, 2)).tolist()


def test_camera_moves_everything_in_both_directions(clip):
    camera = random_camera(np.random.default_rng(0), T, pan=3.0, shear=2.0)
    added = add_camera(clip, camera)["flow"] - clip["flow"]
    # What a frame sees ahead, the next one sees back.
    np.testing.assert_allclose(added[:-1, ..., :2], -added[1:, ..., 2:], atol=1e-5)
    y, x = np.meshgrid(np.linspace(-1, 1, H), np.linspace(-1, 1, W), indexing="ij")
    for axis in (0, 1):
        pan, along_x, along_y = camera[1, axis]
        expected = pan + along_x * x + along_y * y
        np.testing.assert_allclose(added[0, ..., axis], expected, atol=1e-5)


def test_camera_stays_within_its_limits():
    for seed in range(20):
        camera = random_camera(np.random.default_rng(seed), T, pan=2.0, shear=0.5)
        assert camera.shape == (T + 1, 2, 3)
        assert np.abs(camera[..., 0]).max() <= 2.0
        assert np.abs(camera[..., 1:]).max() <= 0.5


def test_unseen_layers_are_emptied_and_moved_back():
    clip = moving_squares([(2, 1), (-1, -2), (0, 0)])
    clip["modal"][..., 1] = 0
    kept = drop_unseen(clip)
    np.testing.assert_array_equal(kept["modal"][..., 0], clip["modal"][..., 0])
    np.testing.assert_array_equal(kept["amodal"][..., 1], clip["amodal"][..., 2])
    assert not kept["amodal"][..., 2].any() and not kept["modal"][..., 2].any()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, deadline=None)
def test_crops_are_inside_and_respect_their_limits(seed):
    rng = np.random.default_rng(seed)
    top, left, rows, columns = random_window(rng, 90, 160, min_window=0.5, max_stretch=1.3)
    assert 0 <= top <= 90 - rows and 0 <= left <= 160 - columns
    assert 0.5 / 1.3**0.5 - 0.01 <= rows / 90 <= 1
    assert 1 / 1.31 <= (rows / 90) / (columns / 160) <= 1.31

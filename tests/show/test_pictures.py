"""Overlays, flow colours, contact sheets, grids."""

import numpy as np
import pytest

from oclr_jax.show.contact_sheet import contact_sheet
from oclr_jax.show.flow_color import flow_to_rgb
from oclr_jax.show.grid import evenly_spaced, picture_grid
from oclr_jax.show.overlay import paint_ids, paint_label, paint_mask

GREY = np.full((120, 160, 3), 100, np.uint8)


def test_objects_are_tinted_and_the_background_is_unchanged():
    ids = np.zeros((120, 160), np.uint8)
    ids[10:60, 10:60], ids[70:110, 90:150] = 1, 2
    painted = paint_ids(GREY, ids)
    red, green = painted[15, 15].astype(int), painted[75, 140].astype(int)
    assert red[0] - red[1] > 60
    assert green[1] - green[0] > 60
    far = np.ones_like(ids, bool)
    far[7:63, 7:63] = far[67:113, 87:153] = False
    assert (painted[far] == 100).all()
    assert (GREY == 100).all()
    # The contour is stronger than the tint.
    assert painted[10, 35, 0] > painted[15, 35, 0]


def test_a_frame_without_objects_is_unchanged():
    np.testing.assert_array_equal(paint_ids(GREY, np.zeros((120, 160), np.uint8)), GREY)


@pytest.mark.parametrize("number", [1, 3, 255])
def test_single_pixel_masks_and_full_frame_masks(number):
    for size in ((120, 160), (16, 16)):
        ids = np.zeros(size, np.uint8)
        ids[-1, -1] = number
        frame = np.zeros((*size, 3), np.uint8)
        assert paint_ids(frame, ids).any()
        assert paint_ids(frame, np.full(size, number, np.uint8)).any()
        paint_mask(frame, np.zeros(size, np.uint8), number)
        paint_label(frame, np.zeros(size, np.uint8), number, "1")
        assert not frame.any()


def test_a_label_lies_inside_a_ring():
    y, x = np.mgrid[0:240, 0:320]
    distance = np.hypot(x - 160, y - 120)
    ring = ((distance > 70) & (distance < 110)).astype(np.uint8)
    image = np.zeros((240, 320, 3), np.uint8)
    paint_label(image, ring, 1, "1")
    rows, columns = np.nonzero(image.any(-1))
    assert ring[round(rows.mean()), round(columns.mean())]


def test_flow_colours_follow_the_wheel():
    flow = np.array([[[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1], [3, 0]]], np.float32)
    white, right, down, left, up, beyond = flow_to_rgb(flow, 1.0)[0].astype(int)
    assert white.tolist() == [255, 255, 255]
    assert right.tolist() == [255, 0, 0]
    assert down[0] > 200 and down[1] > 150 and down[2] < 30  # yellow
    assert left[0] < 30 and left[1] > 150 and left[2] > 200  # cyan to blue
    assert up[2] > 200 and up[1] < 30  # violet
    assert beyond.tolist() == [191, 0, 0]


def test_flow_strength_scales_with_the_longest():
    flow = np.random.default_rng(0).normal(size=(20, 30, 2)).astype(np.float32)
    strong, pale = flow_to_rgb(flow, 1.0), flow_to_rgb(flow, 50.0)
    assert pale.mean() > strong.mean() + 20
    assert flow_to_rgb(np.zeros((4, 4, 2), np.float32)).min() == 255
    # Noise below one pixel stays pale.
    assert flow_to_rgb(0.01 * flow).min() > 230


def test_contact_sheet_shows_rows_and_the_front_object_on_top():
    amodal = np.zeros((3, 30, 40, 2), bool)
    amodal[:, 5:25, 5:25, 0] = amodal[:, 5:25, 15:35, 1] = True
    modal = np.where(amodal[..., 1], 2, amodal[..., 0]).astype(np.uint8)
    flow = np.zeros((3, 30, 40, 2), np.float32)
    frames = np.full((3, 60, 80, 3), 120, np.uint8)

    def sheet(ranks):
        return contact_sheet(frames, flow, modal, amodal, [1, 2], ranks, list("abc"), 96)

    two_in_front, one_in_front = sheet([1, 0]), sheet([0, 1])
    height, width, _ = two_in_front.shape
    assert height > 4 * 96 and width > 3 * 128
    changed = np.nonzero((two_in_front != one_in_front).any(-1))[0]
    # Only the last row depends on the order.
    assert changed.min() > height - 110
    # The overlap is greener where object 2 is in front.
    left = width - 3 * 134
    overlap = (slice(height - 6 - 96 + 20, height - 6 - 96 + 35), slice(left + 52, left + 76))
    green = [sheet_[overlap].astype(int)[..., 1].mean() for sheet_ in (two_in_front, one_in_front)]
    assert green[0] > green[1] + 20


def test_grid_places_pictures_with_gaps_and_titles():
    red, blue = (np.full((30, 40, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    grid = picture_grid([[red, blue], [blue]], gap=2)
    assert grid.shape == (2 * 32, 2 * 42, 3)
    np.testing.assert_array_equal(grid[:30, :40], red)
    np.testing.assert_array_equal(grid[:30, 42:82], blue)
    np.testing.assert_array_equal(grid[32:62, :40], blue)
    assert (grid[30:32] == 255).all() and (grid[:, 40:42] == 255).all()
    assert (grid[32:, 42:] == 255).all()  # the short row ends in white
    titled = picture_grid([[red, blue], [blue]], 2, ["first", "second"], ["one", "two\nlines"])
    top, left = np.subtract(titled.shape[:2], grid.shape[:2])
    np.testing.assert_array_equal(titled[top:, left:], grid)
    for title in (titled[:top, left : left + 42], titled[:top, left + 42 :]):
        assert title.min() < 128
    one, two = titled[top : top + 32, :left], titled[top + 32 :, :left]
    assert 0 < (one < 128).sum() < (two < 128).sum()


@pytest.mark.parametrize(
    "count, wanted, indices",
    [(10, 4, [0, 3, 6, 9]), (3, 6, [0, 1, 2]), (1, 3, [0]), (0, 3, []), (30, 2, [0, 29])],
)
def test_evenly_spaced_includes_both_ends(count, wanted, indices):
    assert evenly_spaced(count, wanted) == indices

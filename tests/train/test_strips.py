"""Pictures of validation examples: one column per frame, and a row for each kind of picture."""

import numpy as np

from oclr_jax.train.record.strips import FRAMES, GAP, image_strip, pair_strip
from tests.train.drifts import drifts
from tests.train.squares import squares


def test_a_clip_has_a_row_of_flow_and_four_of_masks():
    clip = squares(0, 1, 8, 16, 24)
    masks = {name: clip[name] > 0 for name in ("modal", "amodal")}
    strip = image_strip(clip, masks)
    # The grid may or may not end in a gap.
    rows, columns = 5 * (16 + GAP), FRAMES * (24 + GAP)
    assert rows - GAP <= strip.shape[0] <= rows and columns - GAP <= strip.shape[1] <= columns
    row = [strip[i * (16 + GAP) : i * (16 + GAP) + 16] for i in range(5)]
    # A perfect prediction looks like the truth, and covered parts show in amodal masks alone.
    np.testing.assert_array_equal(row[1], row[2])
    np.testing.assert_array_equal(row[3], row[4])
    assert (row[1] != row[3]).any()


def test_a_pair_has_the_estimated_flow_only_where_there_is_one():
    pair = drifts(0, 1, 64, 64)
    plain = pair_strip(pair, pair["flow"])
    more = pair_strip(pair | {"estimated": pair["flow"]}, pair["flow"])
    assert more.shape[1] - plain.shape[1] == 64 + GAP
    np.testing.assert_array_equal(plain[:64, :64], pair["first"][0])

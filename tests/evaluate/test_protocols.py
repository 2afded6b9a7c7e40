"""The protocols on small masks whose figures can be worked out by hand."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from oclr_jax.datasets.benchmarks import BENCHMARKS, VOID
from oclr_jax.datasets.layouts import Box
from oclr_jax.errors import UserError
from oclr_jax.evaluate.protocols import Prediction, frame_metrics, match, overlaps
from oclr_jax.evaluate.scores import score_sequence, summarize
from oclr_jax.evaluate.truth import Truth
from oclr_jax.ops.boundary import boundary_f
from oclr_jax.ops.metrics import jaccard


def truth_of(ids, **changes):
    settings = {"drop_ends": False, "grouped": False, "official": False} | changes
    return Truth(list(range(len(ids))), ids, **settings)


def halves(frames=4):
    """Object 1 at the left, 2 at the right."""
    ids = np.zeros((frames, 20, 40), np.uint8)
    ids[:, 2:18, 2:18], ids[:, 2:18, 22:38] = 1, 2
    return ids


def swapped(ids):
    return np.array([0, 2, 1], np.uint8)[ids]


def whole(ids, foreground_only=False):
    return Prediction([(list(range(len(ids))), ids)], ids, foreground_only)


def test_paper_chooses_in_every_window_and_sequence_oracle_once():
    truth = truth_of(halves())
    ids = halves()
    ids[2:] = swapped(ids[2:])
    found = Prediction([([0, 1], ids[:2]), ([2, 3], ids[2:])], ids, foreground_only=False)
    assert np.array_equal(match("paper", found, truth), truth.ids)
    matched = match("sequence-oracle", found, truth)
    j = frame_metrics("sequence-oracle", matched, truth)
    assert [values["J"].tolist() for values in j.values()] == [[1, 1, 0, 0]] * 2


def test_a_later_window_replaces_the_frames_it_shares():
    truth = truth_of(halves())
    empty = np.zeros_like(truth.ids)
    found = Prediction(
        [([0, 1, 2], truth.ids[:3]), ([1, 2, 3], empty[:3])], None, foreground_only=False
    )
    assert match("paper", found, truth).any(axis=(1, 2)).tolist() == [True, False, False, False]


def test_grouped_benchmarks_take_all_layers_under_paper():
    truth = truth_of((halves() > 0).astype(np.uint8), grouped=True)
    assert np.array_equal(match("paper", whole(halves()), truth), truth.ids)
    alone = truth_of(truth.ids)
    assert match("paper", whole(halves()), alone).sum() == truth.ids.sum() / 2


def test_frames_that_count():
    ids = halves(5)
    found = ids.copy()
    found[0] = found[-1] = 0
    truth = truth_of(ids, drop_ends=True)
    assert frame_metrics("paper", found, truth)["1"]["J"].tolist() == [1, 1, 1]
    assert frame_metrics("davis-unsupervised", found, truth)["1"]["J"].tolist() == [0, 1, 1, 1, 0]


def test_no_oracle_leaves_out_what_lies_around_the_image():
    truth = truth_of((halves() > 0).astype(np.uint8))
    ids = halves()
    ids[ids == 0] = 3
    assert np.array_equal(match("no-oracle", whole(ids), truth), truth.ids)
    assert match("union", whole(ids), truth).all()
    # Of another program's masks nothing is left out: it chose already.
    assert match("no-oracle", whole(ids, foreground_only=True), truth).all()


def plain_unsupervised(found, truth):
    """The official rule from its description, all pairs of proposals and objects."""
    void = truth == VOID
    objects = range(1, int(truth[0][truth[0] != VOID].max()) + 1)
    count = max(int(found.max()), len(objects))
    j, f = (np.zeros((count, len(objects), len(truth))) for _ in range(2))
    for row in range(count):
        for column, object in enumerate(objects):
            masks = found == row + 1, truth == object, void
            j[row, column], f[row, column] = jaccard(*masks), boundary_f(*masks)
    rows, columns = linear_sum_assignment(-(j.mean(2) + f.mean(2)) / 2)
    return {columns[i] + 1: (j[row, columns[i]], f[row, columns[i]]) for i, row in enumerate(rows)}


@pytest.mark.parametrize("seed", range(4))
def test_davis_unsupervised(seed):
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 4, (3, 5, 6)), np.ones((1, 8, 8))).astype(np.uint8)
    found = np.roll(truth, rng.integers(0, 6, 2), (1, 2))
    found[found == 3] = rng.integers(0, 6)
    truth[:, :6, :9] = VOID
    truth[1] = np.where(truth[1] == 1, 7, truth[1])  # appears late: the official rule skips it
    annotation = truth_of(truth)
    values = frame_metrics(
        "davis-unsupervised", match("davis-unsupervised", whole(found), annotation), annotation
    )
    wanted = plain_unsupervised(found, truth)
    assert values.keys() == {str(object) for object in wanted}
    for object, (j, f) in wanted.items():
        np.testing.assert_allclose(values[str(object)]["J"], j)
        np.testing.assert_allclose(values[str(object)]["F"], f)


def test_paper_on_multi_object_benchmarks_ends_with_the_official_rule():
    truth = truth_of(halves(), official=True)
    matched = match("paper", whole(swapped(halves())), truth)
    assert np.array_equal(matched, truth.ids)
    values = frame_metrics("paper", matched, truth)
    assert values.keys() == {"1", "2"}


def test_too_many_proposals():
    found = np.full((1, 8, 8), 21, np.uint8)
    with pytest.raises(UserError, match="at most 20 proposals"):
        match("davis-unsupervised", whole(found), truth_of(np.ones_like(found)))


def test_overlaps_are_those_of_the_masks():
    rng = np.random.default_rng(0)
    found, truth = rng.integers(0, 4, (2, 3, 12, 16)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = VOID
    tables = overlaps(found, [1, 2, 9], truth, [1, 3])
    for row, proposal in enumerate((1, 2, 9)):
        for column, object in enumerate((1, 3)):
            wanted = jaccard(found == proposal, truth == object, truth == VOID)
            np.testing.assert_allclose(tables[row, column], wanted)


def test_boxes_and_success_rates():
    ids = np.zeros((2, 20, 40), np.uint8)
    ids[:, 5:15, 10:20] = 1
    boxes = (Box((10.0, 5.0, 20.0, 15.0), 0), Box((10.0, 5.0, 20.0, 20.0), 2))
    truth = truth_of(ids, boxes=boxes)
    values = frame_metrics("paper", ids, truth)
    assert values["1"]["J"].tolist() == pytest.approx([1, 2 / 3])
    record = {"only": score_sequence({"paper": values}, truth)}
    mean = summarize(record, BENCHMARKS["moca_filter"], ("paper",))["paper"]
    assert mean["SR"] == pytest.approx((1 + 1 + 0.5 + 0.5 + 0.5) / 5)
    assert mean["SR_locomotion"] == 1 and mean["SR_static"] == pytest.approx(2 / 5)
    assert "SR_deformation" not in mean
    # A second sequence of one frame: J counts sequences, success counts frames.
    short = truth_of(ids[:1], boxes=boxes[:1])
    record["short"] = score_sequence({"paper": frame_metrics("paper", ids[:1], short)}, short)
    mean = summarize(record, BENCHMARKS["moca_filter"], ("paper",))["paper"]
    assert mean["J"] == pytest.approx(((1 + 2 / 3) / 2 + 1) / 2)
    assert mean["SR_0.7"] == pytest.approx(2 / 3)


def test_multi_object_means_are_over_objects():
    one, two = halves()[:, :, :20] > 0, halves()
    records = {}
    for name, ids in (("one", one.astype(np.uint8)), ("two", two)):
        truth = truth_of(ids)
        empty_second = np.where(ids == 2, 0, ids).astype(np.uint8)
        records[name] = score_sequence(
            {"paper": frame_metrics("paper", empty_second, truth)}, truth
        )
    means = summarize(records, BENCHMARKS["davis2017_motion"], ("paper",))["paper"]
    assert means["J"] == pytest.approx(2 / 3)  # of three objects one is not found
    assert records["two"]["paper"]["J"] == 0.5


def slots_of(ids, order=((0, 1), (1, 0))):
    """Soft masks at half the size, of foreground and background, swapped in the second flow."""
    foreground = (ids[:, ::2, ::2] > 0) * 0.8 + 0.1
    both = np.stack([foreground, 1 - foreground], axis=-1)
    return np.stack([both[..., list(one)] for one in order], axis=1).astype(np.float16)


def test_motion_grouping_chooses_a_slot_for_every_flow():
    truth = truth_of(halves(), drop_ends=True)
    found = Prediction([], None, False, slots_of(halves()))
    matched = match("motion-grouping", found, truth)
    assert np.array_equal(matched, truth.ids > 0)
    values = frame_metrics("motion-grouping", matched, truth)
    assert values["all"]["J"].tolist() == [1] * 4, "all frames count"
    # The mean of the soft masks is thresholded, not each mask.
    found.slots[:, 1] = 0.35
    assert match("motion-grouping", found, truth)[:, 2:18, 2:18].all()
    found.slots[:, 1] = 0.05
    assert not match("motion-grouping", found, truth).any()
    assert np.array_equal(match("motion-grouping-single", found, truth), truth.ids > 0)


def test_motion_grouping_on_boxes_takes_the_first_slot_and_inverts_it():
    ids = np.zeros((2, 20, 40), np.uint8)
    ids[:, 4:14, 6:16] = 1
    truth = truth_of(ids, boxes=(Box((6.0, 4.0, 16.0, 14.0), 0),) * 2)
    for order in (((0, 1),), ((1, 0),)):
        found = Prediction([], None, False, slots_of(ids, order))
        found.slots[...] = np.where(found.slots > 0.5, 0.95, 0.05)
        matched = match("motion-grouping", found, truth)
        assert frame_metrics("motion-grouping", matched, truth)["1"]["J"].tolist() == [1, 1]


def test_motion_grouping_is_a_mean_over_frames():
    records = {}
    for name, frames, j in (("a", 3, 1.0), ("b", 1, 0.0)):
        truth = truth_of((halves(frames) > 0).astype(np.uint8))
        matched = truth.ids if j else np.zeros_like(truth.ids)
        protocols = ("motion-grouping", "union")
        values = {name: frame_metrics(name, matched, truth) for name in protocols}
        records[name] = score_sequence(values, truth)
    means = summarize(records, BENCHMARKS["davis2016"], ("motion-grouping", "union"))
    assert means["motion-grouping"]["J"] == 0.75 and means["union"]["J"] == 0.5

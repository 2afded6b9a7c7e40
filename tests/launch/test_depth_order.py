"""The report on the depth order of tracks: pairs, matching, and the command."""

import numpy as np
import pytest

from data_pipelines.loaders.sequences import dataset_directory
from launch.reports import depth_order


def three_layers() -> tuple[np.ndarray, np.ndarray]:
    """Amodal masks `[t h w 3]` and visible ids: 1 covers a part of 2; 3 is apart."""
    amodal = np.zeros((4, 20, 40, 3), bool)
    amodal[:, 2:12, 2:12, 0] = amodal[:, 2:12, 8:24, 1] = amodal[:, 14:, 30:, 2] = True
    ids = np.zeros((4, 20, 40), np.uint8)
    for layer in (2, 1, 0):
        ids[amodal[..., layer]] = layer + 1
    return amodal, ids


def test_pairs_that_overlap_are_scored_by_the_order_of_their_tracks():
    amodal, ids = three_layers()
    names = np.array([0, 9, 4, 6], np.uint8)  # tracks of the layers 1, 2 and 3
    for order, right in (([9, 6, 4], True), ([4, 9, 6], False)):
        assert list(depth_order.score_pairs(names[ids], order, ids, amodal)) == [(1.0, right)]
    half = names[ids]
    half[:, :, 16:24] = 0  # half of what is visible of the back object
    ((iou, right),) = depth_order.score_pairs(half, [9, 4, 6], ids, amodal)
    assert right and iou == pytest.approx(1 / 3)


def test_a_pair_without_a_track_of_both_is_not_found():
    amodal, ids = three_layers()
    one = np.where(ids == 1, np.uint8(9), np.uint8(0))
    assert list(depth_order.score_pairs(one, [9], ids, amodal)) == [(0.0, False)]


def test_the_command_prints_a_row_for_each_least_iou(data_dir, capsys):
    dataset = dataset_directory(data_dir, "tiny")
    assert depth_order.main([str(dataset), "--limit", "2", "--quiet"]) == 0
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [float(row[0]) for row in rows] == list(depth_order.LEAST_IOU)
    for _, pairs, found, right, _ in rows:
        assert int(right) <= int(found) <= int(pairs)


def test_mistakes_end_in_a_sentence(data_dir, capsys):
    dataset = str(dataset_directory(data_dir, "tiny"))
    for arguments, word in (
        (["nowhere"], "nowhere"),
        ([dataset, "--refine", "sharper"], "sharper"),
    ):
        assert depth_order.main([*arguments, "--quiet"]) == 2
        message = capsys.readouterr().err
        assert word in message and message.count("\n") == 1

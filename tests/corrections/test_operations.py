"""What corrections do to ids, masks and scores, and which are refused."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oclr_jax.corrections.frames import Step, correct_masks, correct_scores
from oclr_jax.corrections.operations import Scene, parse_operation, to_json
from oclr_jax.errors import UserError
from tests.corrections.results import crossing, visible

FRAMES = 6
FOUND = Scene(FRAMES, (1, 2, 3), {1: (0, 5), 2: (0, 5), 3: (2, 5)}, (), 3)


def steps(*values: dict) -> list[Step]:
    scenes, made = [FOUND], []
    for value in values:
        made.append(parse_operation(value, scenes[-1]))
        scenes.append(made[-1].after(scenes[-1]))
    return [Step(o, *around) for o, around in zip(made, pairwise(scenes), strict=True)]


def corrected(frame: int, *values: dict):
    amodal = {id: masks[frame] for id, masks in crossing(FRAMES).items() if masks[frame].any()}
    return correct_masks(steps(*values), frame, visible(amodal), amodal)


MERGE = {"kind": "merge", "id": 2, "into": 1}
SPLIT = {"kind": "split", "id": 2, "frame": 3}
DROP = {"kind": "drop", "id": 1}
ORDER = {"kind": "order", "ids": [3, 2, 1]}
FOREGROUND = {"kind": "foreground", "ids": [3, 1]}


def test_merged_objects_share_their_masks():
    found = crossing(FRAMES)
    ids, amodal = corrected(3, MERGE)
    assert set(amodal) == {1, 3}
    assert np.array_equal(amodal[1], found[1][3] | found[2][3])
    assert np.array_equal(ids == 1, amodal[1])
    assert steps(MERGE)[-1].after.order == (1, 3)


@pytest.mark.parametrize("frame, here", [(2, {1, 2, 3}), (3, {1, 3, 4})])
def test_a_split_gives_a_new_id_from_its_frame_on(frame, here):
    ids, amodal = corrected(frame, SPLIT)
    before, _ = corrected(frame)
    assert set(amodal) == here
    assert np.array_equal(ids == (4 if frame >= 3 else 2), before == 2)
    scene = steps(SPLIT)[-1].after
    assert scene.order == (1, 2, 4, 3)
    assert (scene.spans[2], scene.spans[4]) == ((0, 2), (3, 5))


def test_a_dropped_object_uncovers_what_is_behind_it():
    found = crossing(FRAMES)
    ids, amodal = corrected(3, DROP)
    assert set(amodal) == {2, 3}
    assert np.array_equal(ids, visible({2: found[2][3], 3: found[3][3]}))


def test_another_depth_order_composes_the_masks_anew():
    found = crossing(FRAMES)
    for order in ([3, 2, 1], [2, 1, 3], [2, 3, 1]):
        ids, _ = corrected(3, {"kind": "order", "ids": order})
        assert np.array_equal(ids, visible({id: found[id][3] for id in order}))


def test_another_depth_order_keeps_refined_masks_of_objects_that_do_not_pass_each_other():
    """Here the visible mask of 1 is smaller than its full mask: a refiner made it."""
    amodal = {id: masks[3] for id, masks in crossing(FRAMES).items()}
    ids = visible(amodal)
    ids[ids == 1] = np.where(np.arange((ids == 1).sum()) % 2, 1, 0)
    ordered, _ = correct_masks(steps({"kind": "order", "ids": [1, 3, 2]}), 3, ids, amodal)
    assert np.array_equal(ordered == 1, ids == 1)
    assert np.array_equal(ordered == 3, (ids == 3) | ((ids == 2) & amodal[3]))


def test_the_foreground_follows_the_objects():
    assert steps(FOREGROUND)[-1].after.foreground == (1, 3)
    assert steps(FOREGROUND, DROP)[-1].after.foreground == (3,)
    split = {"kind": "split", "id": 3, "frame": 4}
    assert steps(FOREGROUND, split)[-1].after.foreground == (1, 3, 4)
    merge = {"kind": "merge", "id": 3, "into": 2}
    assert steps(FOREGROUND, merge)[-1].after.foreground == (1, 2)
    assert steps(FOREGROUND, {"kind": "foreground", "ids": []})[-1].after.foreground == ()


def test_scores_of_merged_objects_are_weighted_by_area():
    scores = {1: (0.9, 30), 2: (0.6, 10), 3: (0.5, 5)}
    assert correct_scores(steps(MERGE), 3, scores) == {1: (pytest.approx(0.825), 40), 3: (0.5, 5)}
    assert correct_scores(steps(SPLIT, DROP), 4, scores) == {4: (0.6, 10), 3: (0.5, 5)}
    assert correct_scores(steps(MERGE), 0, {2: (0.6, 0), 1: (0.4, 0)}) == {1: (0.5, 0)}


operations = st.one_of(
    st.fixed_dictionaries(
        {"kind": st.just("merge"), "id": st.just(2), "into": st.sampled_from([1, 3])}
    ),
    st.fixed_dictionaries({"kind": st.just("drop"), "id": st.sampled_from([1, 3])}),
    st.fixed_dictionaries(
        {"kind": st.just("split"), "id": st.sampled_from([1, 3]), "frame": st.integers(1, 5)}
    ),
    st.permutations([1, 2, 3]).map(lambda ids: {"kind": "order", "ids": list(ids)}),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(operations, max_size=4), st.integers(0, FRAMES - 1))
def test_masks_scores_and_scene_name_the_same_objects(values, frame):
    scene, made = FOUND, []
    for value in values:
        try:
            operation = parse_operation(value, scene)
        except UserError:
            continue
        made.append(Step(operation, scene, operation.after(scene)))
        scene = made[-1].after
        assert parse_operation(to_json(operation), made[-1].before) == operation
    amodal = {id: masks[frame] for id, masks in crossing(FRAMES).items() if masks[frame].any()}
    ids, full = correct_masks(made, frame, visible(amodal), amodal)
    scores = correct_scores(made, frame, dict.fromkeys(amodal, (0.5, 1)))
    assert set(full) == set(scores)
    assert set(np.unique(ids)) - {0} <= set(full) <= set(scene.order) == set(scene.spans)
    assert all(not (ids == id).any() or (full[id] | (ids != id)).all() for id in full)
    for id in full:
        first, last = scene.spans[id]
        assert first <= frame <= last


@pytest.mark.parametrize(
    "value, says",
    [
        ("merge", "has a kind"),
        ({"kind": "paint"}, "one of merge, split, drop, order, foreground"),
        ({"kind": "merge", "id": 1}, "kind merge has id, into"),
        ({"kind": "merge", "id": 1, "into": 1}, "with itself"),
        ({"kind": "merge", "id": 1, "into": 7}, "no object 7; there are 1, 2, 3"),
        ({"kind": "merge", "id": True, "into": 2}, "whole number"),
        ({"kind": "drop", "id": "1"}, "whole number"),
        ({"kind": "drop", "id": 1, "frame": 2}, "kind drop has id"),
        ({"kind": "split", "id": 3, "frame": 2}, "from frame 2 to 5"),
        ({"kind": "split", "id": 3, "frame": 6}, "from frame 2 to 5"),
        ({"kind": "split", "id": 3, "frame": 4, "new_id": 2}, "id 2 is not free"),
        ({"kind": "split", "id": 3, "frame": 4, "new_id": 256}, "id 256 is not free"),
        ({"kind": "order", "ids": [1, 2]}, "every object once"),
        ({"kind": "order", "ids": [1, 2, 2]}, "every object once"),
        ({"kind": "order", "ids": 1}, "list of whole numbers"),
        ({"kind": "foreground", "ids": [4]}, "no object 4"),
    ],
)
def test_corrections_that_cannot_be_made(value, says):
    with pytest.raises(UserError, match=says):
        parse_operation(value, FOUND)

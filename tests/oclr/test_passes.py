"""Test-time averaging: what mirrored and reversed windows are, and how their layers are joined."""

import dataclasses

import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.oclr.passes import choose_passes, mirror_flow, predict_passes, reverse_flow
from oclr_jax.oclr.predict import FlowWindow, predict_layers
from oclr_jax.pipeline import segment_video
from tests.clips import motion_segmenter, moving_clip

GAPS = (1, -1, 2, -2)
FRAMES, HEIGHT, WIDTH = 7, 10, 24


def scene(lefts: list[int], gaps=GAPS) -> np.ndarray:
    """Exact flow of a box whose left border is at `lefts[i]` in frame i."""
    flow = np.zeros((len(lefts), HEIGHT, WIDTH, 2 * len(gaps)), np.float32)
    for frame, left in enumerate(lefts):
        for number, gap in enumerate(gaps):
            there = frame + gap if 0 <= frame + gap < len(lefts) else frame - gap
            sign = 1 if there == frame + gap else -1
            move = (sign * (lefts[there] - left), sign * (there - frame) / 4)
            flow[frame, 2:6, left : left + 5, 2 * number : 2 * number + 2] = move
    return flow


def window(flow: np.ndarray, count: int | None = None) -> FlowWindow:
    count = len(flow) if count is None else count
    images = np.zeros((count, *flow.shape[1:3], 3), np.uint8)
    return FlowWindow(0, 0, count, flow, images)


def test_the_mirrored_flow_is_that_of_the_mirrored_video():
    lefts = [1, 3, 6, 7, 7, 9, 13]
    mirrored = mirror_flow(scene(lefts))
    expected = scene([WIDTH - 5 - left for left in lefts])
    np.testing.assert_array_equal(mirrored, expected)
    np.testing.assert_array_equal(mirror_flow(mirrored), scene(lefts))


def test_the_reversed_flow_is_that_of_the_video_played_backwards():
    lefts = [1, 3, 6, 7, 7, 9, 13]
    backwards = reverse_flow(scene(lefts), GAPS)
    expected = scene(lefts[::-1])
    expected[..., 1::2] *= -1  # the box goes down in `scene`
    np.testing.assert_array_equal(backwards, expected)
    np.testing.assert_array_equal(reverse_flow(backwards, GAPS), scene(lefts))
    np.testing.assert_array_equal(
        mirror_flow(reverse_flow(scene(lefts), GAPS)), reverse_flow(mirror_flow(scene(lefts)), GAPS)
    )


@pytest.mark.parametrize("passes, calls", [(1, 1), (2, 2), (4, 4)])
def test_passes_of_an_equivariant_model_agree(passes, calls):
    """A model that names layers by direction: mirroring and reversing exchange two of them."""
    asked = []

    def predict(flow):
        asked.append(flow.shape)
        u = flow[..., 0]
        layers = np.stack([u > 9e9, u > 0.5, u < -0.5], axis=-1) * np.float32(0.9)
        return layers, np.array([2, 1, 0], np.float32)

    flow = scene([1, 3, 6, 8, 10, 13, 15], gaps=(1, -1))
    flow[:, 7:, 3:9, 0], flow[:, 7:, 3:9, 2] = -1, 1  # another object, to the left
    probability, order = predict_passes(predict, flow, (1, -1), passes)
    alone, _ = predict(flow)
    np.testing.assert_allclose(probability, alone, atol=1e-6)
    assert asked[:-1] == [flow.shape] * calls
    # The layers of the two objects are exchanged in half the passes, and so are their depths.
    np.testing.assert_allclose(order, [2, 1, 0] if passes == 1 else [2, 0.5, 0.5])


def test_probabilities_and_depths_are_averaged():
    answers = iter([0.2, 0.6, 0.4, 0.8])

    def predict(flow):
        value = next(answers)
        layers = np.zeros((*flow.shape[:3], 2), np.float32)
        layers[..., 1] = value
        return layers, np.array([value, -value], np.float32)

    probability, order = predict_passes(predict, scene([1, 2, 3], (1, -1)), (1, -1), 4)
    np.testing.assert_allclose(probability[..., 1], 0.5)
    np.testing.assert_allclose(probability[..., 0], 0)
    np.testing.assert_allclose(order, [0.5, -0.5])


def test_a_short_window_is_reversed_without_its_padding():
    """All calls have one shape, so that one program serves them."""
    seen = []
    model = motion_segmenter()

    def answer(params, flow):
        seen.append(np.asarray(flow[0]))
        return model.predict(params, flow)

    count = 3
    flow = np.pad(scene([1, 3, 6], (1, -1)), ((0, 3), (0, 0), (0, 0), (0, 0)), mode="edge")
    segmenter = dataclasses.replace(model, predict=answer, passes=4)
    layers = predict_layers(segmenter, window(flow, count))
    assert {one.shape for one in seen} == {flow.shape}
    backwards = reverse_flow(flow[:count], (1, -1))
    np.testing.assert_array_equal(seen[2][:count], backwards)
    np.testing.assert_array_equal(seen[2][count:], backwards[-1:].repeat(3, axis=0))
    once = predict_layers(dataclasses.replace(model, passes=1), window(flow, count))
    np.testing.assert_allclose(layers.probability, once.probability, atol=1e-6)


def test_what_cannot_be_run():
    with pytest.raises(UserError, match="3 passes; choose 1, 2 or 4"):
        choose_passes(3, (1, -1))
    with pytest.raises(UserError, match="at gap 2 but not at -2; choose 1 or 2"):
        choose_passes(4, (1, -1, 2))
    assert choose_passes(2, (1,), default=4) == 2
    assert choose_passes(None, (1, -1)) == 1 and choose_passes(None, (1, -1), default=4) == 4


def test_the_option_reaches_the_model_and_the_record(monkeypatch):
    segmenter = dataclasses.replace(motion_segmenter(), passes=4)
    asked = []

    def load(weights, precision, passes, model):
        asked.append(passes)
        return segmenter

    monkeypatch.setattr("oclr_jax.pipeline.load_segmenter", load)
    result = segment_video(moving_clip(8), passes=4)
    assert asked == [4] and result.record["settings"]["passes"] == 4
    assert len(result.record["objects"]) == 2
    for command in (["segment", "a", "b"], ["evaluate", "--dataset", "folder", "--data", "a"]):
        options = cli.build_parser().parse_args([*command, "--passes", "2"])
        assert options.passes == 2

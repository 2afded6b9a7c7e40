"""`--refine appearance,adapt`: what the corrector is trained on, and that it is the video's own."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from oclr_jax.errors import UserError
from oclr_jax.models import corrector
from oclr_jax.pipeline import segment_video
from oclr_jax.refine import adapt, appearance_models, correct
from oclr_jax.refine.adapt import Adapt, CorrectorTraining, Example, make_step
from oclr_jax.refine.appearance_models import load_appearance_model
from tests.clips import moving_clip
from tests.refine.test_select_and_correct import (  # noqa: F401, fixtures
    CORRECTOR,
    no_weights_and_a_motion_model,
    weights,
)

FRAMES = 5


def example(labels: np.ndarray, known: np.ndarray) -> Example:
    rng = np.random.default_rng(0)
    e, k = CORRECTOR.exemplars, CORRECTOR.objects
    exemplars = corrector.Exemplars(
        features=rng.normal(size=(1, e, k, *CORRECTOR.grid, 8)).astype(np.float32),
        masks=(rng.random((1, e, 32, 48, k)) > 0.5).astype(np.float32),
        scores=np.ones((1, e, k), np.float32),
        frames=np.arange(10, 10 + e)[None, :, None].repeat(k, axis=2).astype(np.int32),
        valid=np.ones((1, e, k), bool),
    )
    images = rng.normal(size=(1, 3, 32, 48, 3)).astype(np.float32)
    features = rng.normal(size=(1, 3, *CORRECTOR.grid, 8)).astype(np.float32)
    return Example(images, features, exemplars, np.arange(3, dtype=np.int32)[None], labels, known)


@pytest.mark.slow
def test_a_step_learns_the_labels_of_exemplar_frames_alone():
    params = jax.jit(lambda: corrector.init_params(CORRECTOR, 0))()
    step, optimizer = make_step(CORRECTOR, 1e-3, CorrectorTraining().loss_weights)
    labels = np.zeros((1, 3, 32, 48, 2), np.uint8)
    labels[..., 8:24, 8:24, 0] = 1
    known = np.zeros((1, 3, 2), bool)
    known[0, 1, 0] = True
    other = labels.copy()
    other[0, 2] = 1  # a frame that is no exemplar
    key, start = jax.random.key(0), optimizer.init(params)
    one, state, loss = step(params, start, example(labels, known), key)
    two = step(params, start, example(other, known), key)[0]
    jax.tree.map(np.testing.assert_array_equal, one, two)
    for _ in range(5):
        one, state, later = step(one, state, example(labels, known), key)
    assert later < loss


@pytest.mark.slow
def test_the_video_is_learned_and_nothing_else_changes(weights, monkeypatch):  # noqa: F811
    monkeypatch.setattr(Adapt, "training", CorrectorTraining(steps=3, learning_rate=1e-3))
    seen, losses, make = [], [], make_step

    def spy(*settings):
        losses.append(settings[-1])
        step, optimizer = make(*settings)

        def watched(params, state, one, key):
            seen.append(one)
            return step(params, state, one, key)

        return watched, optimizer

    monkeypatch.setattr(adapt, "make_step", spy)
    options = {"refine_weights": weights}
    frames = moving_clip(FRAMES)
    before = segment_video(frames, refine=["appearance"], **options)
    result = segment_video(frames, refine=["appearance", "adapt"], **options)
    refiner = result.record["settings"]["refiners"][-1]
    assert (refiner["name"], refiner["steps"]) == ("adapt", 3)
    assert list(result.amodal) == list(before.amodal)
    assert len(seen) == 3
    for one in seen:
        assert one.known.any() and one.labels.shape == (1, 3, 32, 48, 2)
        exemplar = (one.exemplars.frames[0][None] == one.frames[0][:, None, None]).any(axis=1)
        np.testing.assert_array_equal(one.known[0], exemplar)
    again = segment_video(frames, refine=["appearance"], **options)
    np.testing.assert_array_equal(again.masks, before.masks)
    less = segment_video(frames, refine=["appearance", "adapt:no-reconstruction"], **options)
    assert [r.record["settings"]["refiners"][-1]["reconstruction"] for r in (result, less)] == [
        1,
        0,
    ]
    assert len(seen) == 6 and losses[0].reconstruction > 0 == losses[1].reconstruction


def test_an_object_that_was_not_corrected_is_learned_as_it_is(weights, monkeypatch):  # noqa: F811
    """It has no modal masks; the flow model's are its labels."""
    model = load_appearance_model("corrector", weights)
    model = dataclasses.replace(model, config=dataclasses.replace(CORRECTOR, keep_steady=True))
    monkeypatch.setattr(correct, "load_appearance_model", lambda *_: model)
    monkeypatch.setattr(correct, "_is_as_steady", lambda *_: False)
    seen = []

    def spy(*_):
        def step(params, state, one, key):
            seen.append(one)
            return params, state, 0.0

        return step, optax.adam(1e-3)

    monkeypatch.setattr(adapt, "make_step", spy)
    frames, options = moving_clip(FRAMES), {"refine_weights": weights}
    result = segment_video(frames, refine=["appearance", "adapt"], **options)
    assert len(seen) == CorrectorTraining().steps
    for one in seen:
        shown = one.labels.any(axis=(2, 3))[one.known]
        assert shown.all()
    np.testing.assert_array_equal(result.masks, segment_video(frames, refine=[]).masks)


def test_adapt_alone_is_refused(weights, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr(appearance_models, "SHIPPED", tmp_path)
    with pytest.raises(UserError, match="appearance,adapt"):
        segment_video(moving_clip(FRAMES), refine=["adapt"], refine_weights=weights)
    with pytest.raises(UserError, match="no weights of the"):
        segment_video(moving_clip(FRAMES), refine=["appearance", "adapt"])

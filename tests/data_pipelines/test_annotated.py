"""Import of annotated videos, from a miniature in the layout of DAVIS."""

import jax
import numpy as np
import pytest

from configs.corrector import get_config
from data_pipelines.builders.annotated import clip_starts, import_annotated, object_masks
from data_pipelines.loaders.clips import make_clip_loader
from oclr_jax.errors import UserError
from oclr_jax.flow import DIS
from oclr_jax.models.corrector import CorrectorConfig, init_params
from oclr_jax.train.schedule import learning_rate_factors
from oclr_jax.video.png import write_ids, write_png
from oclr_jax.weights.description import WeightsInfo

T, H, W = 5, 64, 96


@pytest.fixture
def annotated(tmp_path):
    """A sequence of five frames with two squares; one moves to the right by 4 px per frame."""
    rng = np.random.default_rng(0)
    background, square = (rng.integers(0, 256, (*size, 3), np.uint8) for size in ((H, W), (24, 24)))
    root = tmp_path / "DAVIS"
    for t in range(T):
        frame, ids = background.copy(), np.zeros((H, W), np.uint8)
        frame[20:44, 10 + 4 * t : 34 + 4 * t] = square
        ids[20:44, 10 + 4 * t : 34 + 4 * t] = 2
        ids[50:60, 70:80] = 1
        ids[:4] = 255
        write_png(root / "JPEGImages" / "480p" / "one" / f"{t:05d}.png", frame)
        write_ids(root / "Annotations" / "480p" / "one" / f"{t:05d}.png", ids)
    return root


def test_clips_train_like_rendered_ones(annotated, tmp_path):
    options = {"estimator": DIS(), "frames": 4, "quiet": True}
    directory, made = import_annotated(annotated, tmp_path, "annotated_train", "train", **options)
    assert made
    assert import_annotated(annotated, tmp_path, "annotated_train", "train", **options)[1] is False
    clip = {"frames": 4, "batch_size": 1, "height": 128, "width": 224, "train": False}
    loader = make_clip_loader(directory, "train", **clip)
    assert loader.settings["data_version"] == "annotated-2.0.0" and len(loader) == 1
    modal = loader[0]["modal"][0]
    # 96 columns become 224 and 64 rows 128. The larger object is the first layer; void is none.
    np.testing.assert_array_equal(np.flatnonzero(modal[0, ..., 0].any(0))[[0, -1]], [23, 78])
    np.testing.assert_array_equal(np.flatnonzero(modal[0, ..., 1].any(0))[[0, -1]], [163, 186])
    assert not modal[..., 2].any() and not modal[:, :8].any()
    inside = modal[1, ..., 0] == 1
    np.testing.assert_allclose(
        np.median(loader[0]["flow"][0, 1][inside], axis=0)[:2], [4 * 224 / 96, 0], atol=0.5
    )


def test_annotations_without_a_clip_are_rejected(annotated, tmp_path):
    with pytest.raises(UserError, match="6 annotated frames in a row"):
        import_annotated(annotated, tmp_path, "a", "train", DIS(), frames=6, quiet=True)
    assert not (tmp_path / "oclr_syn").exists()


def test_clips_are_runs_of_annotated_frames():
    assert clip_starts([0, 1, 2, 3, 4, 6, 7, 9, 10, 11], 2) == [0, 2, 6, 9]
    assert clip_starts([0, 2, 4], 2) == []


def test_binary_masks_are_one_object():
    masks = object_masks([np.full((8, 8), 255, np.uint8)], 4, 4)
    assert masks[..., 0].all() and not masks[..., 1:].any()


def test_only_the_upsampling_is_fine_tuned():
    config = get_config("upsampling")
    params = jax.eval_shape(lambda: init_params(CorrectorConfig(), 0))
    factors = learning_rate_factors(params, config.optimizer.groups)
    trained = {name for name, tree in factors.items() if any(jax.tree.leaves(tree))}
    assert trained == {"encoder", "mix", "decoder"}
    assert all(all(jax.tree.leaves(factors[name])) for name in trained)


def test_weights_remember_human_annotation():
    start = {"weights": "a", "data_version": "annotated-2.0.0"}
    card = {"data_version": "2.0.0", "started_from": {"weights": "b", "started_from": start}}
    assert WeightsInfo(CorrectorConfig(), "c", card=card).human_annotation
    start["data_version"] = "2.0.0"
    assert not WeightsInfo(CorrectorConfig(), "c", card=card).human_annotation

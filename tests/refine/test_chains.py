"""SAM after the refiners of both papers, from end to end with random weights (table 18)."""

import numpy as np
import pytest

from oclr_jax import pipeline
from oclr_jax.oclr.tta.config import TTAConfig
from oclr_jax.pipeline import segment_video
from oclr_jax.refine import correct
from oclr_jax.refine.sam_settings import SAM_WEIGHTS
from tests.clips import motion_segmenter, moving_clip
from tests.refine.test_sam import weights as sam_weights  # noqa: F401
from tests.refine.test_select_and_correct import keep_masks
from tests.refine.test_select_and_correct import weights as refine_weights  # noqa: F401
from tests.refine.test_tta import use
from tests.refine.test_tta import weights as dino_weights  # noqa: F401

FRAMES = 4


@pytest.mark.slow
@pytest.mark.parametrize("before", ["appearance", "tta"])
def test_sam_takes_the_masks_of_the_refiner_before_it(
    before,
    sam_weights,  # noqa: F811
    refine_weights,  # noqa: F811
    dino_weights,  # noqa: F811
    monkeypatch,
    tmp_path,
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())
    monkeypatch.setitem(SAM_WEIGHTS, "sam", str(sam_weights))
    size = {"short_side": 64, "long_multiple": 32, "radius": 3}
    use(monkeypatch, TTAConfig(weights=str(dino_weights), steps=2, warmup_steps=1, **size))
    # With random weights the corrector finds nothing.
    monkeypatch.setattr(correct, "_compile", keep_masks)
    frames, folder = moving_clip(FRAMES), refine_weights if before == "appearance" else None
    alone = segment_video(frames, refine=[before], refine_weights=folder)
    both = segment_video(frames, refine=[before, "sam"], refine_weights=folder)
    names = [refiner["name"] for refiner in both.record["settings"]["refiners"]]
    assert names == [refiner["name"] for refiner in alone.record["settings"]["refiners"]] + ["sam"]
    assert alone.record["settings"]["human_annotation"] == "none"
    assert both.record["settings"]["human_annotation"] == "used"
    assert list(both.amodal) == list(alone.amodal) == [1, 2]
    assert (both.masks != alone.masks).any() and set(np.unique(both.masks)) <= {0, 1, 2}

"""The proportions of table B5, counted on the plan of the scenes without rendering."""

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.builders.oclr_syn import SPLIT_IDS, OclrSyn
from data_pipelines.synthetic import DATA_VERSION, compose_scene
from data_pipelines.synthetic.plan import scene_kind

CONFIGS = {config.name: config for config in OclrSyn.BUILDER_CONFIGS}
# (background, motion, shape) -> multiple of the cell's unit, as the rows of table B5.
ROWS = {
    (background, motion, shape): 1 if motion == "homography" else 3
    for background in ("image", "video")
    for motion in ("homography", "spline")
    for shape in ("polygon", "silhouette")
}


def kinds(name: str):
    config = CONFIGS[name]
    (count,) = config.splits.values()
    return [config.kind(index) for index in range(count)]


@pytest.mark.parametrize(
    ("name", "total", "unit", "objects", "stationary"),
    [
        ("syn_train", 4608, 96, (1, 2, 3), 1536),
        ("syn_single", 256, 16, (1,), 85),
        ("syn_val", 384, 8, (1, 2, 3), 128),
    ],
)
def test_counts_of_table_b5(name, total, unit, objects, stationary):
    plan = kinds(name)
    assert len(plan) == total
    counts = Counter((k.background, k.motion, k.shape, k.objects) for k in plan)
    expected = {(*row, n): unit * times for row, times in ROWS.items() for n in objects}
    assert counts == expected
    # A third of all sequences, all of them before images.
    still = [kind for kind in plan if kind.stationary]
    assert len(still) == stationary == total // 3
    assert {kind.background for kind in still} == {"image"}
    # What the table does not fix is spread over its cells.
    occluded = Counter((k.background, k.motion, k.shape, k.objects) for k in plan if k.occluder)
    assert occluded == {cell: count // 4 for cell, count in counts.items()}


def test_pauses_are_spread_over_the_cells():
    plan = kinds("syn_train")
    still = Counter((k.motion, k.shape, k.objects) for k in plan if k.stationary)
    image = Counter((k.motion, k.shape, k.objects) for k in plan if k.background == "image")
    assert still == {cell: count * 2 // 3 for cell, count in image.items()}


def test_ablation_sets_have_one_object_and_their_backgrounds():
    homography, both = kinds("single_homography"), kinds("single_both")
    assert {kind.objects for kind in (*homography, *both)} == {1}
    assert {kind.background for kind in homography} == {"image"}
    assert Counter(kind.background for kind in both) == {"image": 768, "video": 768}
    for plan in (homography, both):
        assert sum(kind.stationary for kind in plan) == 512
        assert Counter(kind.motion for kind in plan) == {"homography": 384, "spline": 1152}
        assert Counter(kind.shape for kind in plan) == {"polygon": 768, "silhouette": 768}


@given(start=st.integers(0, 5000))
def test_any_sixteen_scenes_in_a_row_hold_every_cell(start):
    plan = [scene_kind(start + step, objects=(2,)) for step in range(16)]
    assert Counter((k.background, k.motion, k.shape) for k in plan) == ROWS


def test_a_changed_generator_is_a_new_version():
    """Own Syn-Val is frozen: change `DATA_VERSION` together with this fingerprint."""
    digest = hashlib.sha256()
    config = CONFIGS["syn_val"]
    for index in (0, 100, 383):
        rng = np.random.default_rng([0, SPLIT_IDS["validation"], index])
        scene = compose_scene(rng, config.scene, config.kind(index))
        # Paths, rounded far above what another processor computes otherwise.
        paths = np.stack([body.homographies[:, :2] for body in scene.bodies])
        digest.update((np.round(paths, 2) + 0.0).astype("<f8").tobytes())
        digest.update(repr([part.sprite.shape for part in scene.parts]).encode())
        bends = [body.bend for body in scene.bodies if body.bend is not None]
        digest.update(repr([f"{np.abs(bend).mean():.2f}" for bend in bends]).encode())
    plan = [config.kind(index) for index in range(384)]
    digest.update(repr(plan).encode())
    assert (DATA_VERSION, digest.hexdigest()[:16]) == ("2.0.0", "4f57b382aaf4dd3f")

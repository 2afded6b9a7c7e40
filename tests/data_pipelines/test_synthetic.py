"""Scenes and their renderer: exact flow against analytic answers and by warping, masks, motion."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.synthetic import Scene, SceneConfig, motion, render, sample_scene
from data_pipelines.synthetic.scene import Body, Part
from data_pipelines.synthetic.shapes import blob, figure, polygon
from data_pipelines.synthetic.textures import power_noise, texture

CONFIG = SceneConfig(frames=5, height=64, width=112, render_height=64, render_width=112)
FINE = dataclasses.replace(CONFIG, render_height=128, render_width=224)


def scene(seed: int, objects: int | None = None, config: SceneConfig = CONFIG) -> Scene:
    return sample_scene(np.random.default_rng(seed), config, objects)


def grid(config: SceneConfig) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(config.width), np.arange(config.height)), -1).astype(
        np.float32
    )


def plane(homographies: np.ndarray, bend=None, step: float = 1.0) -> Scene:
    """A scene that is one textured plane under known homographies (canvas to rendered frame)."""
    image = texture(np.random.default_rng(0), 300, 400)
    opaque = np.concatenate([image, np.full((300, 400, 1), 255, np.uint8)], -1)
    frames = len(homographies)
    still = np.broadcast_to(np.eye(3), (frames, 3, 3))
    return Scene(
        dataclasses.replace(FINE, frames=frames),
        (Body(homographies, bend, step),),
        (Part(opaque, still, 0, -1),),
        0,
        np.zeros((frames, 3), bool),
    )


def tilted_path(frames: int = 3) -> np.ndarray:
    clock = np.arange(frames)
    return motion.placed(
        np.array([112.0, 64.0]) + clock[:, None] * [3.7, -1.9],
        1 + 0.03 * clock,
        0.05 * clock,
        clock[:, None] * [2e-4, -1e-4],
        np.array([200.0, 150.0]),
    )


def test_flow_of_a_homography_is_the_analytic_one():
    path = tilted_path()
    sample = render(plane(path))
    ratio = 2.0
    points = ((grid(FINE) + 0.5) * ratio - 0.5).reshape(1, -1, 2).astype(np.float64)
    for gap, name in ((1, "forward_flow"), (-1, "backward_flow")):
        moved = cv2.perspectiveTransform(points, path[1 + gap] @ np.linalg.inv(path[1]))
        expected = ((moved - points) / ratio).reshape(FINE.height, FINE.width, 2)
        assert np.abs(expected).max() > 1
        np.testing.assert_allclose(sample[name][1], expected, atol=0.02)


def test_flow_of_a_thin_plate_spline_is_the_analytic_one():
    control = np.array([[100.0, 80], [300, 90], [120, 220], [280, 210], [200, 150]])
    shift = np.zeros((2, 5, 2))
    shift[1] = [[6, 4], [-5, 3], [0, 0], [4, -6], [-3, 5]]
    step = 4.0
    nodes = motion.node_grid(300, 400, step)
    bend = motion.thin_plate_bend(control, shift, nodes)
    path = np.broadcast_to(motion.translation(np.array([-88.0, -86.0])), (2, 3, 3)).copy()
    sample = render(plane(path, bend, step))
    # Frame 0 is not bent, so a canvas point is where the pixel is; the spline gives its motion.
    canvas = (grid(FINE) + 0.5) * 2 - 0.5 + [88, 86]
    exact = motion.thin_plate_bend(control, shift, canvas.astype(np.float32))[1] / 2
    assert np.abs(exact).max() > 1
    np.testing.assert_allclose(sample["forward_flow"][0], exact, atol=0.02)


def test_thin_plate_spline_carries_its_control_points():
    rng = np.random.default_rng(3)
    control, shift = rng.uniform(0, 50, (6, 2)), rng.normal(0, 3, (4, 6, 2))
    at_control = motion.thin_plate_bend(control, shift, control[None].astype(np.float32))
    np.testing.assert_allclose(at_control[:, 0], shift, atol=1e-3)


def test_inverse_bend_undoes_the_bend():
    rng = np.random.default_rng(5)
    shape = blob(rng, 64)
    shifts = motion.control_shifts(rng, shape.control, np.arange(4.0), strength=1.0)
    nodes = motion.node_grid(64, 64, 2.0)
    bend = motion.limit_slope(motion.thin_plate_bend(shape.control, shifts, nodes), 2.0)
    inverse = motion.invert_bend(bend, 2.0)
    inner = nodes[8:-8, 8:-8]
    back = inner + motion.sample_nodes(inverse[2], inner, 2.0)
    again = back + motion.sample_nodes(bend[2], back, 2.0)
    assert np.abs(bend[2]).max() > 0.3
    np.testing.assert_allclose(again, inner, atol=0.05)


@pytest.mark.parametrize("objects", [1, 2, 3])
def test_next_frame_pulled_back_along_the_flow_is_this_one(objects):
    config = dataclasses.replace(CONFIG, height=128, width=224, render_height=128, render_width=224)
    sample = render(scene(10 + objects, objects, config))
    at = grid(config)
    for t in range(config.frames - 1):
        to = at + sample["forward_flow"][t]
        args = (np.ascontiguousarray(to[..., 0]), np.ascontiguousarray(to[..., 1]))
        pulled = cv2.remap(sample["video"][t + 1], *args, cv2.INTER_LINEAR).astype(float)
        back = cv2.remap(sample["backward_flow"][t + 1], *args, cv2.INTER_LINEAR)
        loop = np.linalg.norm(sample["forward_flow"][t] + back, axis=-1)
        inside = ((to >= 1) & (to <= np.array([config.width - 2, config.height - 2]))).all(-1)
        visible = inside & (loop < 0.5)
        assert visible.mean() > 0.5
        # Where a surface stays visible, forward and backward flow are each other's inverse.
        assert np.median(loop[visible]) < 0.02
        assert np.abs(pulled - sample["video"][t])[visible].mean() <= 2


def test_photometric_test_would_notice_wrong_flow():
    config = dataclasses.replace(CONFIG, height=128, width=224, render_height=128, render_width=224)
    sample = render(scene(12, 2, config))
    to = grid(config) + sample["forward_flow"][1] + np.float32(2)
    pulled = cv2.remap(sample["video"][2], to[..., 0], to[..., 1], cv2.INTER_LINEAR).astype(float)
    assert np.abs(pulled - sample["video"][1]).mean() > 2


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), objects=st.integers(1, 3))
def test_masks_agree_with_each_other(seed, objects):
    sample = render(scene(seed, objects, FINE))
    amodal, seen = sample["amodal"], sample["segmentations"]
    # Front to back composition of the amodal masks is what is seen.
    composed = np.zeros_like(seen)
    for layer in reversed(range(3)):
        composed[amodal[..., layer] == 1] = layer + 1
    np.testing.assert_array_equal(composed, seen)
    assert not amodal[..., objects:].any()
    np.testing.assert_array_equal(
        sample["layer_order"], [k if k < objects else -1 for k in range(3)]
    )
    area = amodal.sum((1, 2))
    for layer in range(3):
        shown = (seen == layer + 1).sum((1, 2))
        expected = np.where(area[:, layer] > 0, shown / np.maximum(area[:, layer], 1), 0)
        np.testing.assert_allclose(sample["visibility"][:, layer], expected, atol=1e-6)
    assert np.isfinite(sample["forward_flow"]).all()
    assert np.isfinite(sample["backward_flow"]).all()
    np.testing.assert_array_equal(sample["forward_flow"][-1], -sample["backward_flow"][-1])
    np.testing.assert_array_equal(sample["backward_flow"][0], -sample["forward_flow"][0])


def test_same_seed_same_bytes():
    one, two, other = render(scene(7)), render(scene(7)), render(scene(8))
    for key in one:
        np.testing.assert_array_equal(one[key], two[key])
    assert (one["video"] != other["video"]).any()


def test_stationary_object_moves_with_the_background():
    config = dataclasses.replace(FINE, frames=12, stationary=1.0, deep_background=0.0)
    found = 0
    for seed in range(12):
        sample = render(scene(seed, 1, config))
        still = np.flatnonzero(sample["stationary"][:, 0])
        assert 1 <= len(still) <= 5 and (np.diff(still) == 1).all() and still[0] >= 1
        t = int(still[0])
        mine = sample["segmentations"][t - 1] == 1
        ring = cv2.dilate(mine.astype(np.uint8), np.ones((5, 5))).astype(bool) & ~mine
        if mine.sum() < 30 or ring.sum() < 30:
            continue
        flow = sample["forward_flow"][t - 1]
        # At the rim of the object, its flow is the background's.
        x, y = np.meshgrid(np.arange(config.width), np.arange(config.height))
        basis = np.stack([np.ones(x.shape), x, y, x * x, x * y, y * y], -1)
        outside = ~mine
        fit = np.linalg.lstsq(basis[outside], flow[outside], rcond=None)[0]
        assert np.abs(flow[mine] - basis[mine] @ fit).max() < 0.1
        found += 1
    assert found >= 4


def test_a_third_of_the_scenes_has_spells_and_all_of_those_have_rigid_backgrounds():
    config = dataclasses.replace(
        CONFIG, height=16, width=16, render_height=16, render_width=32, bending=0.0
    )
    spells = []
    for seed in range(240):
        drawn = sample_scene(np.random.default_rng([0, 0, seed]), config, 1)
        spells.append(drawn.stationary.any())
        if spells[-1]:
            assert drawn.bodies[0].bend is None
    assert 0.25 < np.mean(spells) < 0.42


def test_polygons_keep_a_distance_between_vertices():
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(60):
        shape = polygon(rng, 100)
        counts.add(len(shape.control))
        distance = np.linalg.norm(shape.control[:, None] - shape.control[None], axis=-1)
        distance[np.diag_indices(len(distance))] = np.inf
        assert distance.min() > 0.9 / len(shape.control) * 100 * 0.375
    assert counts == set(range(3, 9))


def test_control_points_move_less_than_half_way_to_the_nearest():
    rng = np.random.default_rng(1)
    for _ in range(20):
        control = polygon(rng, 100).control
        distance = np.linalg.norm(control[:, None] - control[None], axis=-1)
        distance[np.diag_indices(len(distance))] = np.inf
        shifts = motion.control_shifts(rng, control, np.arange(30.0), strength=1.0)
        assert (np.linalg.norm(shifts, axis=-1) <= distance.min(1) / 2 + 1e-9).all()
        assert np.abs(shifts).max() > 0


def test_figure_limbs_move_apart_within_one_layer():
    rng = np.random.default_rng(2)
    shape = next(s for s in (figure(rng, 120) for _ in range(50)) if len(s.limbs) >= 5)
    angles = np.zeros((2, len(shape.limbs)))
    angles[1] = [limb.swing for limb in shape.limbs]
    pivots = np.stack([limb.pivot for limb in shape.limbs])
    poses = motion.joint_poses([limb.parent for limb in shape.limbs], pivots, angles)
    for limb, pose in zip(shape.limbs, poses, strict=True):
        # A joint stays on the limb that it hangs on.
        joint = np.append(limb.pivot, 1)
        if limb.parent >= 0:
            np.testing.assert_allclose(pose[1] @ joint, poses[limb.parent][1] @ joint, atol=1e-9)
    assert np.abs(poses[1:, 1] - np.eye(3)).max() > 0.05


def test_textures_have_the_spectrum_they_claim():
    noise = power_noise(np.random.default_rng(0), 256, 256, exponent=1.0)
    power = np.abs(np.fft.fft2(noise)) ** 2
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
    band = (frequency > 0.02) & (frequency < 0.4)
    slope = np.polyfit(np.log(frequency[band]), np.log(power[band]), 1)[0]
    assert slope == pytest.approx(-2.0, abs=0.15)
    assert noise.mean() == pytest.approx(0, abs=1e-4) and noise.std() == pytest.approx(1, abs=1e-3)

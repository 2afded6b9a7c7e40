"""Scenes and their renderer: exact flow against analytic answers and by warping, masks, motion."""

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.synthetic import (
    Scene,
    SceneConfig,
    SceneKind,
    compose_scene,
    motion,
    render,
    sample_scene,
)
from data_pipelines.synthetic.plan import scene_kind
from data_pipelines.synthetic.render import HIDDEN, NO_FRAME, OUTSIDE, SEEN
from data_pipelines.synthetic.scene import (
    BACKGROUND,
    OCCLUDER,
    REFERENCE_WIDTH,
    Body,
    Effect,
    Part,
    Sensor,
)
from data_pipelines.synthetic.shapes import blob, figure, from_mask, polygon
from data_pipelines.synthetic.textures import power_noise, texture
from oclr_jax.errors import UserError

# Without what changes the brightness of a surface that is followed.
CONFIG = SceneConfig(
    frames=5,
    height=64,
    width=112,
    render_height=64,
    render_width=112,
    shadows=0.0,
    reflections=0.0,
    blurred=0.0,
    noisy=0.0,
    compressed=0.0,
)
FINE = dataclasses.replace(CONFIG, render_height=128, render_width=224)


def scene(seed: int, objects: int | None = None, config: SceneConfig = CONFIG) -> Scene:
    return sample_scene(np.random.default_rng(seed), config, objects)


def grid(config: SceneConfig) -> np.ndarray:
    return np.stack(np.meshgrid(np.arange(config.width), np.arange(config.height)), -1).astype(
        np.float32
    )


def opaque(height: int, width: int, seed: int = 0) -> np.ndarray:
    image = texture(np.random.default_rng(seed), height, width)
    return np.concatenate([image, np.full((height, width, 1), 255, np.uint8)], -1)


def plane(homographies: np.ndarray, bend=None, step: float = 1.0, **fields) -> Scene:
    """A scene that is one textured plane under known homographies (canvas to rendered frame)."""
    frames = len(homographies)
    backdrop = Part(opaque(300, 400), motion.at_rest(frames), 0, BACKGROUND)
    scene = Scene(
        config=dataclasses.replace(FINE, frames=frames),
        kind=SceneKind(objects=0),
        bodies=(Body(homographies, bend, step),),
        backdrop=backdrop,
        parts=(),
        effects=(),
        stationary=np.zeros((frames, 3), bool),
    )
    return dataclasses.replace(scene, **fields)


def square(path: np.ndarray, size: int, body: int, layer: int) -> tuple[Body, Part]:
    """A square of `size` rendered pixels whose corner is carried by `path`."""
    sprite = opaque(size + 4, size + 4, seed=body)
    sprite[..., 3] = np.pad(np.full((size, size), 255, np.uint8), 2)
    pose = np.broadcast_to(motion.translation(np.array([-2.0, -2.0])), (len(path), 3, 3))
    return Body(path, None, 1.0), Part(sprite, pose, body, layer)


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
        visible = inside & (sample["forward_occlusion"][t] == SEEN) & (loop < 0.5)
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
    # Front to back composition of the amodal masks is what is seen, but for the occluder.
    composed = np.zeros_like(seen)
    for layer in reversed(range(3)):
        composed[amodal[..., layer] == 1] = layer + 1
    composed[sample["occluder"] == 1] = 0
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
    config = dataclasses.replace(FINE, frames=12)
    kind = SceneKind(objects=1, stationary=True)
    found = 0
    for seed in range(12):
        sample = render(compose_scene(np.random.default_rng(seed), config, kind))
        still = np.flatnonzero(sample["stationary"][:, 0])
        assert 1 <= len(still) <= 5 and (np.diff(still) == 1).all() and still[0] >= 1
        t = int(still[0])
        mine = sample["segmentations"][t - 1] == 1
        if mine.sum() < 30 or (~mine).sum() < 30:
            continue
        flow = sample["forward_flow"][t - 1]
        # The object's flow is that of the background, which is smooth.
        x, y = np.meshgrid(np.arange(config.width), np.arange(config.height))
        basis = np.stack([np.ones(x.shape), x, y, x * x, x * y, y * y], -1)
        fit = np.linalg.lstsq(basis[~mine], flow[~mine], rcond=None)[0]
        assert np.abs(flow[mine] - basis[mine] @ fit).max() < 0.1
        found += 1
    assert found >= 4


def test_kinds_are_what_scenes_show():
    config = dataclasses.replace(CONFIG, height=16, width=16, render_height=16, render_width=32)
    for index in range(48):
        kind = scene_kind(index)
        drawn = compose_scene(np.random.default_rng(index), config, kind)
        layers = [part.layer for part in drawn.parts]
        assert {layer for layer in layers if layer >= 0} == set(range(kind.objects))
        assert (OCCLUDER in layers) == kind.occluder
        assert drawn.stationary.any() == kind.stationary
        assert (drawn.bodies[0].bend is not None) == (kind.background == "video")
        objects = {part.body for part in drawn.parts if part.layer >= 0}
        for body in objects:
            assert (drawn.bodies[body].bend is not None) == (kind.motion == "spline")
        if kind.motion == "homography":
            own = [part for part in drawn.parts if part.layer >= 0]
            assert all((part.pose == part.pose[0]).all() for part in own)
        if kind.shape == "polygon":
            assert sum(layer >= 0 for layer in layers) == kind.objects


def test_occluder_hides_and_moves_with_the_background():
    kind = SceneKind(objects=1, occluder=True)
    hidden = 0
    for seed in range(6):
        drawn = compose_scene(np.random.default_rng(seed), FINE, kind)
        sample = render(drawn)
        occluder = sample["occluder"] == 1
        hidden += (sample["amodal"][..., 0] & sample["occluder"]).any()
        bare = render(dataclasses.replace(drawn, parts=drawn.parts[:-1]))
        assert (sample["segmentations"] == np.where(occluder, 0, bare["segmentations"])).all()
        # Nothing is in front of it, whatever lies behind its outline in the next frame.
        assert not (sample["forward_occlusion"][occluder] == HIDDEN).any()
        backdrop = render(dataclasses.replace(drawn, parts=(), effects=()))
        np.testing.assert_allclose(
            sample["forward_flow"][occluder], backdrop["forward_flow"][occluder], atol=0.02
        )
    assert hidden >= 3


def test_occlusion_of_a_square_is_known():
    # Pixels of the model grid are 2 x 2 rendered ones: the square moves 5 to the right a frame.
    still = np.broadcast_to(motion.translation(np.array([-88.0, -86.0])), (4, 3, 3))
    clock = np.arange(4)[:, None]
    body, part = square(motion.translation(np.array([40.0, 30]) + clock * [10.0, 0]), 40, 1, 0)
    drawn = plane(np.array(still), parts=(part,))
    drawn = dataclasses.replace(drawn, kind=SceneKind(objects=1), bodies=(drawn.bodies[0], body))
    sample = render(drawn)
    expected = np.full((FINE.height, FINE.width), SEEN, np.uint8)
    expected[15:35, 40:45] = HIDDEN
    np.testing.assert_array_equal(sample["forward_occlusion"][0], expected)
    expected = np.full((FINE.height, FINE.width), SEEN, np.uint8)
    expected[15:35, 20:25] = HIDDEN
    np.testing.assert_array_equal(sample["backward_occlusion"][1], expected)
    assert (sample["forward_occlusion"][-1] == NO_FRAME).all()
    assert (sample["backward_occlusion"][0] == NO_FRAME).all()
    # At gap 2 it moves and hides twice as much, and two frames have no neighbour.
    twice = render(drawn, gap=2)
    expected[:] = SEEN
    expected[15:35, 40:50] = HIDDEN
    np.testing.assert_array_equal(twice["forward_occlusion"][0], expected)
    inside = twice["segmentations"][1] == 1
    np.testing.assert_allclose(
        twice["forward_flow"][1][inside], [[10, 0]] * inside.sum(), atol=0.01
    )
    assert (twice["forward_occlusion"][2:] == NO_FRAME).all()
    np.testing.assert_array_equal(twice["forward_flow"][2:], -twice["backward_flow"][2:])


def test_what_leaves_the_frame_is_marked():
    path = motion.translation(np.array([-88.0, -86]) + np.arange(3)[:, None] * [8.0, 0])
    sample = render(plane(path))
    assert (sample["forward_occlusion"][1][:, -4:] == OUTSIDE).all()
    assert (sample["forward_occlusion"][1][:, :-4] == SEEN).all()
    assert (sample["backward_occlusion"][1][:, :4] == OUTSIDE).all()


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), index=st.integers(0, 47), gap=st.integers(1, 2))
def test_forward_and_backward_flow_undo_each_other_where_seen(seed, index, gap):
    config = dataclasses.replace(FINE, height=96, width=128, render_height=96, render_width=128)
    sample = render(compose_scene(np.random.default_rng(seed), config, scene_kind(index)), gap)
    at = grid(config)
    for t in range(config.frames - gap):
        to = at + sample["forward_flow"][t]
        x, y = np.ascontiguousarray(to[..., 0]), np.ascontiguousarray(to[..., 1])
        back = cv2.remap(sample["backward_flow"][t + gap], x, y, cv2.INTER_LINEAR)
        loop = np.linalg.norm(sample["forward_flow"][t] + back, axis=-1)
        inside = (to >= 1).all(-1) & (to <= [config.width - 2, config.height - 2]).all(-1)
        seen = (sample["forward_occlusion"][t] == SEEN) & inside
        # Bilinear lookup mixes two surfaces at outlines, so those are left out.
        kind = sample["segmentations"][t] + 4 * sample["occluder"][t]
        edges = cv2.morphologyEx(kind, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
        seen &= ~edges
        if seen.any():
            # What remains is interpolation where the flow bends.
            assert np.quantile(loop[seen], 0.9) < 0.2


def test_a_gap_too_long_is_rejected():
    with pytest.raises(UserError, match="gap 3"):
        render(scene(1), gap=3)


def test_shadow_changes_the_picture_and_no_truth():
    clock = np.arange(4)[:, None]
    still = np.broadcast_to(motion.translation(np.array([-88.0, -86.0])), (4, 3, 3))
    body, part = square(motion.translation(np.array([40.0, 30]) + clock * [10.0, 0]), 40, 1, 0)
    drawn = plane(np.array(still), parts=(part,))
    drawn = dataclasses.replace(drawn, kind=SceneKind(objects=1), bodies=(drawn.bodies[0], body))
    bare = render(drawn)
    below = np.array([[1.0, 0, 0], [0, -0.5, 60.0], [0, 0, 1]])
    for mirror in (False, True):
        effect = Effect(0, below, 0.8, mirror, softness=1.0)
        shaded = render(dataclasses.replace(drawn, effects=(effect,)))
        for name in bare:
            if name != "video":
                np.testing.assert_array_equal(shaded[name], bare[name])
        changed = np.abs(shaded["video"].astype(int) - bare["video"]).max(-1) > 3
        # It lies below the square, and goes where the square goes.
        rows, columns = np.nonzero(changed[0])
        assert rows.min() >= 68 and rows.max() <= 96
        after = np.nonzero(changed[2])[1]
        assert abs((after.mean() - columns.mean()) - 20) < 3
        if not mirror:
            assert (shaded["video"] <= bare["video"]).all()


def test_speed_and_shutter_have_the_ranges_of_the_config():
    ranges = {"min_speed": 60.0, "max_speed": 70.0, "min_shutter": 0.6, "max_shutter": 0.8}
    config = dataclasses.replace(FINE, **ranges, static_camera=1.0, followed=0.0, blurred=1.0)
    speeds = []
    for seed in range(15):
        drawn = scene(seed, 1, config)
        assert 0.6 <= drawn.sensor.shutter <= 0.8
        places = drawn.bodies[1].homographies[:, :2, 2] * REFERENCE_WIDTH / config.render_width
        # The largest of a clip: objects pause in some.
        speeds.append(np.linalg.norm(np.diff(places, axis=0), axis=1).max())
    # Each object sways, turns and grows besides.
    assert 58 <= np.median(speeds) <= 80, speeds


def test_sensor_blurs_along_the_motion_and_adds_noise():
    path = motion.translation(np.array([-88.0, -86]) + np.arange(3)[:, None] * [12.0, 0])
    sharp = render(plane(path))["video"][1].astype(float)
    blurred = render(plane(path, sensor=Sensor(shutter=0.5)))["video"][1].astype(float)
    # Detail is lost along the motion and kept across it.
    across = np.abs(np.diff(blurred, axis=0)).mean() / np.abs(np.diff(sharp, axis=0)).mean()
    along = np.abs(np.diff(blurred, axis=1)).mean() / np.abs(np.diff(sharp, axis=1)).mean()
    assert along < 0.6 and along < across - 0.1
    noisy = render(plane(path, sensor=Sensor(noise=3.0)))["video"][1] - sharp
    inner = (sharp > 20) & (sharp < 235)
    assert noisy[inner].std() == pytest.approx(3.0, rel=0.1)
    assert abs(noisy[inner].mean()) < 0.1
    coded = render(plane(path, sensor=Sensor(quality=30)))["video"][1] - sharp
    assert 0.5 < np.abs(coded).mean() < 15


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


def test_given_silhouette_keeps_its_shape():
    mask = np.zeros((90, 160), bool)
    mask[20:70, 30:130] = True
    mask[35:55, 60:80] = False
    for seed in range(5):
        shape = from_mask(np.random.default_rng(seed), mask, 120)
        (limb,) = shape.limbs
        alpha = limb.alpha > 127
        # Share of the shape's own box: turning keeps area ratios and the hole.
        contours, _ = cv2.findContours(
            alpha.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        outer, hole = sorted((cv2.contourArea(c) for c in contours), reverse=True)[:2]
        assert hole / outer == pytest.approx(400 / 5000, abs=0.03)
        assert not alpha[[0, -1]].any() and not alpha[:, [0, -1]].any()
        assert alpha.any(0).sum() == pytest.approx(90, abs=4) or alpha.any(
            1
        ).sum() == pytest.approx(90, abs=4)


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

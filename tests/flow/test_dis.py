import sys
from dataclasses import replace
from subprocess import run

import cv2
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.flow import DIS, from_settings, gap_flows, stream_gap_flows
from oclr_jax.flow.dis import SharpDIS


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def shifted(u: int, v: int) -> tuple[np.ndarray, np.ndarray]:
    """Two views of one texture; the second shows it moved by (u, v)."""
    picture = texture(160, 224)
    return picture[16:-16, 16:-16][None], picture[16 - v : 144 - v, 16 - u : 208 - u][None]


@pytest.mark.parametrize("preset", ["ultrafast", "fast", "medium", "fine"])
@pytest.mark.parametrize("motion", [(5, 0), (0, -3), (-4, 6)])
def test_dis_finds_a_shift(preset, motion):
    first, second = shifted(*motion)
    flow = DIS(height=128, width=192, preset=preset)(first, second)
    assert flow.shape == (1, 128, 192, 2)
    # The border shows what is seen in one frame only.
    error = flow[0, 12:-12, 12:-12] - np.array(motion)
    assert np.abs(error).mean() < 0.2


def test_flow_is_in_pixels_of_the_working_grid():
    first, second = shifted(8, 4)
    flow = DIS(height=64, width=192)(first, second)
    middle = np.median(flow[0, 10:-10, 20:-20], axis=(0, 1))
    np.testing.assert_allclose(middle, [8, 2], atol=0.15)


def test_frames_of_the_working_size_give_the_same_flow_as_larger_ones():
    first, second = shifted(3, 1)
    estimator = DIS(height=64, width=96)
    small = [
        cv2.resize(f[0], (96, 64), interpolation=cv2.INTER_AREA)[None] for f in (first, second)
    ]
    np.testing.assert_array_equal(estimator(first, second), estimator(*small))


def test_threads_and_company_do_not_change_a_byte():
    first, second = shifted(5, -2)
    estimator = DIS(height=128, width=192, preset="fine")
    alone = estimator(first, second)
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        single = estimator(first, second)
    finally:
        cv2.setNumThreads(threads)
    pair = estimator(np.concatenate([second, first]), np.concatenate([first, second]))
    np.testing.assert_array_equal(alone, single)
    np.testing.assert_array_equal(alone[0], pair[1])


def test_settings_rebuild_the_estimator():
    estimator = DIS(height=96, width=160, preset="fast")
    assert from_settings(estimator.settings()) == estimator
    assert from_settings({"estimator": "dis"}) == DIS()
    assert replace(DIS(), preset="fast").settings() != DIS().settings()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"estimator": "raft-9"},
        {"estimator": "dis", "preset": "best"},
        {"estimator": "dis", "speed": 3},
        {"estimator": "dis", "height": 8},
        {"estimator": "dis", "height": "256"},
        {"estimator": "raft", "preset": "fine"},
    ],
)
def test_settings_that_fit_no_estimator_are_refused(settings):
    with pytest.raises(UserError):
        from_settings(settings)


def test_flow_never_loads_jax():
    code = "import sys, oclr_jax.flow; sys.exit('jax' in sys.modules)"
    assert run([sys.executable, "-c", code]).returncode == 0


def test_sharp_flow_is_the_same_for_a_pair_and_in_a_stream():
    frames = np.stack(
        [texture(96, 128, seed=1)[8 + i : 72 + i, 2 * i : 96 + 2 * i] for i in range(4)]
    )
    estimator = SharpDIS(height=64, width=96)
    stream = gap_flows(frames, (1, -1), estimator)
    streamed = np.stack(list(stream_gap_flows(iter(frames), (1, -1), estimator)))
    np.testing.assert_array_equal(stream, streamed)
    for index in (1, 2):
        here, after, before = (frames[i][None] for i in (index, index + 1, index - 1))
        np.testing.assert_array_equal(stream[index, ..., :2], estimator(here, after)[0])
        np.testing.assert_array_equal(stream[index, ..., 2:], estimator(here, before)[0])


def test_sharp_flow_estimates_each_direction_once(monkeypatch):
    frames = np.stack([texture(64, 96, seed) for seed in range(5)])
    calls = []
    plain = DIS.__call__

    def count(self, first, second):
        calls.extend(range(len(first)))
        return plain(self, first, second)

    monkeypatch.setattr(DIS, "__call__", count)
    list(stream_gap_flows(iter(frames), (1, -1), SharpDIS(height=64, width=96)))
    assert len(calls) == 2 * (len(frames) - 1)


def test_sharp_flow_is_not_that_of_dis():
    first, second = shifted(5, 3)
    sharp, plain = (kind(height=128, width=192)(first, second) for kind in (SharpDIS, DIS))
    assert 0 < np.abs(sharp - plain)[0, 12:-12, 12:-12].mean() < 0.5
    assert from_settings(SharpDIS(height=32, width=48).settings()) == SharpDIS(32, 48)

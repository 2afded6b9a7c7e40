"""Damaged files of many containers: one sentence or all frames, soon, and never a traceback."""

import faulthandler
import time
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import cv2
import numpy as np
import pytest

from oclr_jax.errors import InputWarning, UserError
from oclr_jax.video.clip import open_clip
from tests.video.videos import encode

FRAMES = 12
SECONDS = 10  # of processor time that a file may take, whatever else runs on the machine
HANG = 600  # seconds after which a reader that waits for ever is ended
GROUPS = {"g": "4", "keyint_min": "4", "sc_threshold": "0"}
START = {"movflags": "+faststart"}
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}
# Name: suffix, codec, its options, options of the container, pixels, whether the header announces
# how many frames or seconds there are.
CONTAINERS = {
    "mp4": ("mp4", "libx264", GROUPS, START, "yuv420p", True),
    "mov": ("mov", "mpeg4", {}, {}, "yuv420p", True),
    "mkv": ("mkv", "libx264", GROUPS, {}, "yuv420p", True),
    "webm": ("webm", "libvpx-vp9", {"g": "4"}, {}, "yuv420p", True),
    "avi": ("avi", "mpeg4", {}, {}, "yuv420p", True),
    "mpegts": ("ts", "libx264", GROUPS, {}, "yuv420p", False),
    "gif": ("gif", "gif", {}, {}, "rgb8", False),
    "flv": ("flv", "flv", {}, {}, "yuv420p", False),
    "mpeg": ("mpg", "mpeg2video", {}, {}, "yuv420p", False),
    "fragmented mp4": ("mp4", "libx264", GROUPS, FRAGMENTS, "yuv420p", False),
    "prores": ("mov", "prores_ks", {}, {}, "yuv422p10le", True),
    "hevc": ("mp4", "libx265", {"x265-params": "log-level=none"}, START, "yuv420p", True),
}
# Containers between which coded packets can be copied.
REMUX = {"mp4": "mkv", "mov": "avi", "mkv": "mp4", "webm": "mkv", "avi": "mov", "mpegts": "mp4"}


@cache
def whole_file(name: str) -> bytes:
    suffix, codec, options, container_options, pixels, _ = CONTAINERS[name]
    scene = np.random.default_rng(0).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    scene = cv2.GaussianBlur(scene, (0, 0), 1.5)
    frames = np.stack([scene[i : i + 64, 2 * i : 2 * i + 96] for i in range(FRAMES)])
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"whole.{suffix}"
        encode(path, frames, codec, 24, None, pixels, None, options, container_options)
        return path.read_bytes()


def cut(rng, content: bytearray) -> None:
    del content[int(len(content) * rng.random()) :]


def flip_bits(rng, content: bytearray) -> None:
    for place in rng.integers(0, len(content), rng.integers(1, 20)):
        content[place] ^= 1 << int(rng.integers(8))


def zero(rng, content: bytearray) -> None:
    start, length = int(rng.integers(len(content))), int(rng.integers(1, len(content) // 5))
    content[start : start + length] = bytes(len(content[start : start + length]))


def remove(rng, content: bytearray) -> None:
    start, length = int(rng.integers(len(content))), int(rng.integers(1, len(content) // 5))
    del content[start : start + length]


def insert(rng, content: bytearray) -> None:
    start = int(rng.integers(len(content)))
    content[start:start] = rng.bytes(int(rng.integers(1, 200)))


def check(path: Path, frames: int) -> None:
    """Reads a file; it must be refused in a sentence, or show `frames` frames, or warn."""
    faulthandler.dump_traceback_later(HANG, exit=True)
    start = time.process_time()
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            clip = open_clip(path)
            found = sum(1 for _ in clip.frames())
        assert found == clip.count == len(clip.times)
        told = any(issubclass(warning.category, InputWarning) for warning in warned)
        assert found >= frames or told, f"{found} of {frames} frames without a word"
    except UserError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
    finally:
        faulthandler.cancel_dump_traceback_later()
    assert time.process_time() - start < SECONDS


def fuzz(folder: Path, name: str, seeds: range) -> None:
    suffix, *_, announces = CONTAINERS[name]
    path = folder / f"damaged.{suffix}"
    for seed in seeds:
        for damage in (cut, flip_bits, zero, remove, insert):
            content = bytearray(whole_file(name))
            damage(np.random.default_rng(seed), content)
            path.write_bytes(content)
            try:
                check(path, FRAMES if announces else 0)
            except Exception as error:
                error.add_note(f"{name}, {damage.__name__}, seed {seed}")
                raise


def remux(rng, source: Path, target: Path) -> int:
    """Copies packets into another container, a few dropped, cut or late; returns how many."""
    copied = 0
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if not packet.size or rng.random() < 0.1:
                continue
            late = int(rng.integers(0, 3)) if rng.random() < 0.1 else 0
            made = packet
            if rng.random() < 0.1:
                made = av.Packet(bytes(packet)[: int(rng.integers(1, packet.size + 1))])
                made.pts, made.dts, made.time_base = packet.pts, packet.dts, packet.time_base
                made.is_keyframe = packet.is_keyframe
            if made.pts is not None:
                made.pts += late
            made.stream = stream
            new.mux(made)
            copied += 1
    return copied


def fuzz_remuxed(folder: Path, name: str, seeds: range) -> None:
    source = folder / f"whole.{CONTAINERS[name][0]}"
    source.write_bytes(whole_file(name))
    for seed in seeds:
        target = folder / f"remuxed.{REMUX[name]}"
        try:
            copied = remux(np.random.default_rng(seed), source, target)
        except av.FFmpegError:
            continue  # the writer refused them, so there is no such file
        check(target, copied)


@pytest.mark.parametrize("name", CONTAINERS)
def test_damaged_files(tmp_path, name):
    fuzz(tmp_path, name, range(3))


@pytest.mark.parametrize("name", REMUX)
def test_remuxed_files(tmp_path, name):
    fuzz_remuxed(tmp_path, name, range(6))


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTAINERS)
def test_many_damaged_files(tmp_path, name):
    fuzz(tmp_path, name, range(3, 100))


@pytest.mark.slow
@pytest.mark.parametrize("name", REMUX)
def test_many_remuxed_files(tmp_path, name):
    fuzz_remuxed(tmp_path, name, range(6, 150))

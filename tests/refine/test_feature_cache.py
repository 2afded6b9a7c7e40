"""The cache of features: what is kept where, what leaves first, and several processes at once."""

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.refine.feature_cache import FeatureCache, FeatureKey, video_digest

ROOT = Path(__file__).resolve().parents[2]
FRAME = 3 * 4 * 5 * 2  # bytes of one frame's features below
HEADER = 4096


def key(video: str, model: str = "vit", height: int = 48) -> FeatureKey:
    return FeatureKey(video, model, height, 64)


def features(seed: int, frames: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(frames, 3, 4, 5)).astype(np.float16)


class Model:
    """Computes features, and counts how often it is asked."""

    def __init__(self, seed: int = 0, frames: int = 6):
        self.values, self.calls = features(seed, frames), 0

    def __call__(self):
        self.calls += 1
        yield from self.values


def check(found, values: np.ndarray) -> None:
    assert len(found) == len(values)
    for frame in (len(values) - 1, 0, *range(len(values)), -1):
        assert found[frame].dtype == values.dtype
        assert np.array_equal(found[frame], values[frame])
    assert np.array_equal(np.stack(list(found)), values)
    with pytest.raises(IndexError):
        found[len(values)]


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def test_small_features_stay_in_memory(tmp_path):
    cache, model = FeatureCache(tmp_path / "cache", memory_limit=6 * FRAME), Model()
    for _ in range(2):
        check(cache.get(key("a"), model), model.values)
    assert model.calls == 1 and files(tmp_path) == []


def test_the_key_is_video_model_and_size(tmp_path):
    cache = FeatureCache(tmp_path, memory_limit=0)
    keys = [key("a"), key("b"), key("a", "other"), key("a", height=96)]
    for seed, each in enumerate(keys):
        cache.get(each, Model(seed))
    for seed, each in enumerate(keys):
        check(cache.get(each, pytest.fail), features(seed))


def test_large_features_are_found_by_a_later_process(tmp_path):
    model = Model()
    check(FeatureCache(tmp_path, memory_limit=2 * FRAME).get(key("a"), model), model.values)
    (file,) = files(tmp_path)
    assert file.stat().st_size == HEADER + 6 * FRAME
    check(FeatureCache(tmp_path).get(key("a"), pytest.fail), model.values)


def test_features_are_computed_and_written_frame_by_frame(tmp_path):
    """When a frame is asked for, all but what memory may hold are on disk."""
    pending = []

    def compute():
        for frame in range(50):
            written = sum(path.stat().st_size - HEADER for path in files(tmp_path)) // FRAME
            pending.append(frame - written)
            yield np.full((3, 4, 5), frame, np.float16)

    cache = FeatureCache(tmp_path, memory_limit=4 * FRAME)
    assert len(cache.get(key("a"), compute)) == 50
    assert max(pending) == 4 and pending[-1] == 0


def test_memory_loses_what_was_used_longest_ago(tmp_path):
    cache = FeatureCache(tmp_path, memory_limit=2 * 6 * FRAME)
    models = {name: Model(seed) for seed, name in enumerate("abc")}
    for name in "abac":  # b was used longest ago when c comes
        check(cache.get(key(name), models[name]), models[name].values)
    for name in "ac":
        cache.get(key(name), pytest.fail)
    cache.get(key("b"), models["b"])
    assert models["b"].calls == 2
    held = sum(array.nbytes for arrays in cache._memory.values() for array in arrays)
    assert held <= 2 * 6 * FRAME


def test_the_disk_loses_what_was_used_longest_ago(tmp_path):
    limit = 2 * (HEADER + 6 * FRAME)
    cache = FeatureCache(tmp_path, memory_limit=0, disk_limit=limit)
    models = {name: Model(seed) for seed, name in enumerate("abc")}
    used_later = None
    for time, name in enumerate("abac"):
        found = cache.get(key(name), models[name])
        path = tmp_path / key(name).filename
        if time == 2:
            used_later = path.stat().st_mtime
        os.utime(path, (time + 1, time + 1))  # times apart whatever the file system's clock
    assert used_later > 1e9, "a hit marks the file as used"
    assert {path.name for path in files(tmp_path)} == {key(name).filename for name in "ac"}
    check(found, models["c"].values)
    assert models["a"].calls == 1


def test_a_removed_file_stays_readable_where_it_is_open(tmp_path):
    cache = FeatureCache(tmp_path, memory_limit=0)
    found = cache.get(key("a"), Model(0))
    (file,) = files(tmp_path)
    file.unlink()
    check(found, features(0))


def test_features_beyond_the_disk_limit_serve_this_process_only(tmp_path):
    cache, model = FeatureCache(tmp_path, memory_limit=0, disk_limit=5 * FRAME), Model()
    check(cache.get(key("a"), model), model.values)
    assert files(tmp_path) == []
    cache.get(key("a"), model)
    assert model.calls == 2


@pytest.mark.parametrize("memory", [0, 2**20])
def test_nothing_is_kept_of_what_fails(tmp_path, memory):
    def compute():
        yield features(0)[0]
        raise OSError(errno.EIO, "the video cannot be read")

    cache = FeatureCache(tmp_path, memory_limit=memory)
    with pytest.raises(OSError, match="the video cannot be read"):
        cache.get(key("a"), compute)
    with pytest.raises(ValueError, match="agree in shape"):
        cache.get(key("a"), lambda: [np.zeros(3), np.zeros(4)])
    assert files(tmp_path) == []
    check(cache.get(key("a"), Model()), features(0))


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: b"x"])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    FeatureCache(tmp_path, memory_limit=0).get(key("a"), Model())
    (file,) = files(tmp_path)
    file.write_bytes(damage(file.read_bytes()))
    model = Model()
    check(FeatureCache(tmp_path, memory_limit=0).get(key("a"), model), model.values)
    assert model.calls == 1 and len(files(tmp_path)) == 1


def test_what_dead_processes_left_is_removed(tmp_path):
    old, new = (tmp_path / f".{key(name).filename}.0123abcd" for name in "ab")
    other = tmp_path / "notes.txt"
    for path in (old, new, other):
        path.write_bytes(b"unfinished")
    os.utime(old, (1, 1))
    os.utime(other, (1, 1))
    FeatureCache(tmp_path, memory_limit=0).get(key("c"), Model())
    left = {path.name for path in files(tmp_path)}
    assert left == {new.name, other.name, key("c").filename}


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    cache = FeatureCache(tmp_path / "file", memory_limit=0)
    with pytest.raises(UserError, match="XDG_CACHE_HOME") as caught:
        cache.get(key("a"), Model())
    assert "\n" not in str(caught.value)


def test_the_default_folder_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert FeatureCache().folder == tmp_path / "oclr_jax" / "features"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FeatureCache().folder == tmp_path / ".cache" / "oclr_jax" / "features"


def test_the_digest_is_of_the_content():
    video = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    changed = video.copy()
    changed[1, 3, 5, 2] += 1
    digests = [video_digest(frames) for frames in (video, changed, video[:1], video.swapaxes(1, 2))]
    assert len(set(digests)) == 4
    assert video_digest(iter(video)) == digests[0]


PROCESS = """
import sys, time
import numpy as np
from oclr_jax.refine.feature_cache import FeatureCache, FeatureKey

folder, own, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
cache = FeatureCache(folder, memory_limit=0, disk_limit=limit)
print("ready", flush=True)
sys.stdin.readline()
for turn in range(40):
    # Both processes compute the same videos, and each one of its own.
    for number in (turn % 5, 100 + own):
        def compute():
            for frame in range(8):
                time.sleep(0.0005)
                yield np.full((64, 64), 10 * number + frame, np.float32)
        found = cache.get(FeatureKey(str(number), "model", 1, 1), compute)
        for frame in range(8):
            assert (found[frame] == 10 * number + frame).all(), (number, frame)
print("done")
"""


def test_two_processes_share_a_folder(tmp_path):
    """Both write, read and remove the same files at the same time; what they read is whole."""
    one_file = HEADER + 8 * 64 * 64 * 4
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [
        subprocess.Popen(
            [*command, str(own), str(3 * one_file)], env=environment, text=True, **pipes
        )
        for own in range(2)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        output, errors = process.communicate(timeout=120)
        assert process.returncode == 0 and output == "done\n", errors
    left = files(tmp_path)
    assert 1 <= len(left) <= 3 and all(path.stat().st_size == one_file for path in left)

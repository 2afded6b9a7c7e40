"""`oclr serve` and `oclr view`: the address, the port, what they refuse, and memory."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import av
import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.files import locked_output
from oclr_jax.web import server
from tests.clips import moving_clip, write_frames
from tests.corrections.results import HEIGHT, WIDTH, write_result

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def taken():
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind((server.HOST, 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_page_is_for_this_machine_and_keeps_its_address(tmp_path):
    listener = server._listen(None, None)
    host, port = listener.getsockname()
    listener.close()
    assert host == "127.0.0.1"
    token, no_port = server._read_address(tmp_path / "server.json")
    assert len(token) >= 32 and no_port is None
    assert server._read_address(tmp_path / "server.json")[0] != token
    server._write_address(tmp_path / "server.json", token, port)
    assert server._read_address(tmp_path / "server.json") == (token, port)
    assert (tmp_path / "server.json").stat().st_mode & 0o077 == 0
    for text in ("{", "[]", '{"token": "short", "port": 1}', '{"token": 1, "port": 1}'):
        (tmp_path / "server.json").write_text(text)
        assert server._read_address(tmp_path / "server.json")[1] is None


def test_a_port_that_is_taken(taken):
    listener = server._listen(None, taken)
    assert listener.getsockname()[1] != taken
    listener.close()
    for port in (taken, 70000, -1):
        with pytest.raises(UserError, match=f"The port {port} cannot be used"):
            server._listen(port, None)


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["view", "."], "holds no objects.json"),
        (["view", "missing"], "holds no objects.json"),
        (["view", "result", "--video", "missing.mp4"], "does not exist"),
        (["view", "result", "--video", "other"], "give the video that was segmented"),
        (["serve", "file"], "is a file"),
        (["serve", ""], "FOLDER is empty"),
        (["serve", "served"], "Another command is writing"),
        (["serve", "broken"], "is no list of jobs"),
    ],
)
def test_what_cannot_be_served(tmp_path, monkeypatch, capsys, arguments, says):
    monkeypatch.chdir(tmp_path)
    write_result(tmp_path, 3)
    write_frames(tmp_path / "other", moving_clip(3, HEIGHT, WIDTH + 2))
    (tmp_path / "file").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "jobs.json").write_text("{")
    with locked_output("served"):
        assert cli.main(arguments) == 2
    out, error = capsys.readouterr()
    assert out == "" and says in error and error.count("\n") == 1


def test_without_its_packages_a_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("oclr_jax.cli.serve.find_spec", lambda name: None)
    for arguments in (["serve", str(tmp_path)], ["view", str(tmp_path)]):
        assert cli.main(arguments) == 2
        assert "pip install 'oclr_jax[web]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_view_shows_a_result_until_it_is_interrupted(tmp_path):
    result = write_result(tmp_path, 3)
    command = [sys.executable, "-m", "oclr_jax.cli", "view", str(result), "--no-browser"]
    process = subprocess.Popen(
        [*command, "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = process.stdout.readline().split()[1]
        with urlopen(f"{address}api/results/1") as answer:
            assert json.load(answer)["video"]["frames"] == 3
        with urlopen(address) as answer:
            assert b"<title>oclr</title>" in answer.read()
        root = address.rsplit("/", 2)[0]
        with pytest.raises(HTTPError, match="403"):
            urlopen(f"{root}/api/state")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=30)
        assert process.returncode == 130 and error.count("\n") == 1
    finally:
        process.kill()
        process.communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "result"]


def noise_video(path: Path, frames: int) -> None:
    """Frames that do not compress, so that a kept packet weighs."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "1", "g": "24"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for _ in range(frames):
            noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "rgb24")))
        container.mux(stream.encode(None))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_video(tmp_path):
    """What the player of a long video uses more is the entries of objects.json, and no frames."""
    code = """
import resource, sys, time
from oclr_jax.web.player import Player
player = Player(sys.argv[1])
assert not player.problem, player.problem
frames = player.summary()["video"]["frames"]
for frame in range(0, frames, max(1, frames // 100)):
    player.picture(frame), player.masks(frame)
while player.motion()["done"] < frames:
    time.sleep(0.1)
player.tracks()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    used = {}
    for frames in (200, 4000):
        folder = tmp_path / str(frames)
        result = write_result(folder, frames, video=False)
        noise_video(folder / "clip", frames)
        done = subprocess.run(
            [sys.executable, "-c", code, str(result)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        used[frames] = int(done.stdout)
    # The entries of objects.json are in memory: about 11 KiB a frame as Python objects.
    assert (used[4000] - used[200]) * 1024 / 3800 < 14, used

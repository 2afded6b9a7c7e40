"""Paths that no command takes, and what is in the way."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oclr_jax import pipeline
from oclr_jax.flow import to_folder
from tests.cli.commands import flow_that_fits, refused

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["segment", "", "out"], "INPUT is empty"),
        (["segment", "clip", ""], "OUTPUT is empty"),
        (["segment", "clip", "/"], "/ is the root of the file system"),
        (["segment", "clip", "gs://bucket/out"], "gs://bucket/out is not on this machine"),
        (["segment", "https://host//a.mp4", "out"], "https://host//a.mp4 is a URL; download it"),
        (["segment", "clip/*.png", "out"], "give the folder of the frames, clip"),
        (["segment", "clip/%05d.png", "out"], "give the folder of the frames, clip"),
        (["segment", "clip/0.png", "clip/1.png", "clip/2.png"], "give the folder that holds them"),
        (["segment", "clip", "x" * 300], "File name too long"),
        (["segment", "x" * 300, "out"], "File name too long"),
        (["segment", "clip", "out", "--weights", ""], "--weights is empty"),
        (["segment", "clip", "out", "--weights", "x" * 300], "File name too long"),
        (["segment", "clip", "out", "--weights", "https://host/a"], "https://host/a"),
        (["segment", "clip", "out", "--flow", ""], "--flow is empty"),
        (["segment", "clip", "out", "--flow", "raft:"], "ends after the colon"),
        (["segment", "clip", "out", "--flow", "clip/0.png"], "is a file, not a folder"),
        (["segment", "clip", "out", "--flow", "x" * 300], "x" * 300),
        (["segment", "clip", "out", "--refine", ""], "--refine is empty"),
        (["flow", "", "out"], "INPUT is empty"),
        (["flow", "clip", "out", "--gaps", ""], "--gaps takes whole numbers"),
        (["flow", "clip", "/"], "/ is the root of the file system"),
        (["flow", "clip", "out", "--flow", ""], "--flow is empty"),
        (["evaluate", "--dataset", "folder", "--data", ""], "--data is empty"),
        (
            ["evaluate", "--dataset", "folder", "--data", "clip", "--output", ""],
            "--output is empty",
        ),
        (["evaluate", "--dataset", "folder", "--data", "clip", "--output", "/"], "is the root"),
        (["evaluate", "--dataset", "folder", "--data", "x" * 300], "File name too long"),
        (["convert", "", "out"], "IN.pth is empty"),
        (["convert", "clip/0.png", ""], "OUT.safetensors is empty"),
        (["convert", "missing.pth", "out"], "missing.pth"),
        (["convert", "x" * 300, "out"], "File name too long"),
    ],
)
def test_paths_that_cannot_be_meant(capsys, tmp_path, clip, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, tmp_path, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment", "pipe", "out"],
        ["segment", "clip", "pipe"],
        ["segment", "clip", "out", "--weights", "pipe"],
        ["segment", "clip", "out", "--flow", "pipe"],
        ["segment", "clip", "out", "--flow", "raft:pipe"],
        ["flow", "pipe", "out"],
        ["evaluate", "--dataset", "davis2016", "--data", "pipe"],
        ["evaluate", "--dataset", "folder", "--data", "clip", "--output", "pipe"],
        ["convert", "pipe", "out"],
    ],
)
def test_a_pipe_is_refused(capsys, tmp_path, clip, monkeypatch, arguments):
    """Reading one would wait for ever."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")

    def late(*_):
        raise AssertionError("the command hangs")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        assert "pipe" in refused(capsys, tmp_path, *arguments)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def test_the_input_is_not_replaced(capsys, tmp_path, clip, weights):
    """Here the frames are what `--overwrite` would replace."""
    clip.rename(tmp_path / "masks")
    arguments = ("segment", tmp_path / "masks", tmp_path, "--weights", weights)
    for options in ((), ("--overwrite",)):
        assert "is read, and lies in" in refused(capsys, tmp_path, *arguments, *options)
    pth = tmp_path / "masks" / "0.png"
    assert "would be replaced by its conversion" in refused(capsys, tmp_path, "convert", pth, pth)


def test_the_output_is_checked_before_the_input_is_read(capsys, tmp_path, monkeypatch):
    def read(*_):
        raise AssertionError("the input was read")

    monkeypatch.setattr(pipeline, "load_segmenter", read)
    monkeypatch.setattr(to_folder, "open_clip", read)
    (tmp_path / "file").touch()
    for command in ("segment", "flow"):
        assert "is a file" in refused(capsys, tmp_path, command, "clip", tmp_path / "file")


def test_what_may_not_be_read(tmp_path, clip, weights):
    """As a user without rights, in a process of its own, because tests may run as root."""
    if os.getuid() != 0:
        pytest.skip("only root can give up its rights")
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(folder.stat().st_mode | 0o055)
    closed = tmp_path / "closed"
    shutil.copytree(clip, closed / "clip")
    flow_that_fits(closed / "flow")
    shutil.copy(weights, closed / "weights")
    one = shutil.copytree(clip, tmp_path / "one")
    (one / "1.png").chmod(0)
    (tmp_path / "weights").write_bytes(weights.read_bytes())
    (tmp_path / "weights").chmod(0)
    flow = flow_that_fits(tmp_path / "flow")
    (flow / "Flows_gap1").chmod(0)
    shutil.copytree(weights.parent, tmp_path / "good")
    closed.chmod(0)
    good = str(tmp_path / "good" / weights.name)
    out = str(tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    commands = [
        ["segment", closed, out, "--weights", good],
        ["segment", closed / "clip", out, "--weights", good],
        ["segment", one, out, "--weights", good],
        ["segment", clip, closed / "out", "--weights", good],
        ["segment", clip, closed, "--weights", good],
        ["segment", clip, out, "--weights", tmp_path / "weights"],
        ["segment", clip, out, "--weights", closed / "weights"],
        ["segment", clip, out, "--weights", good, "--flow", closed / "flow"],
        ["segment", clip, out, "--weights", good, "--flow", flow],
        ["segment", clip, out, "--weights", good, "--flow", f"raft:{closed / 'weights'}"],
        ["segment", clip, out, "--weights", good, "--flow", f"raft:{tmp_path / 'weights'}"],
        ["flow", closed, out],
        ["evaluate", "--dataset", "davis2016", "--data", closed, "--weights", good],
        ["evaluate", "--dataset", "folder", "--data", closed / "clip", "--weights", good],
        ["evaluate", "--dataset", "folder", "--data", clip, "--output", closed],
        ["convert", closed / "weights", f"{out}/a"],
        ["convert", tmp_path / "weights", f"{out}/a"],
    ]
    commands = [[str(argument) for argument in command] for command in commands]
    # Imported before the rights are given up: the checkout may lie where nobody may look.
    code = f"""
import os, oclr_jax.pipeline, oclr_jax.evaluate, oclr_jax.weights.convert
import oclr_jax.flow.raft, oclr_jax.flow.to_folder
from oclr_jax import cli
os.setgid(65534); os.setuid(65534)
for command in {commands!r}:
    print(cli.main(command), flush=True)
"""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "JAX_ENABLE_COMPILATION_CACHE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    lines = done.stdout.splitlines()
    said, statuses = lines[::2], lines[1::2]
    assert statuses == ["2"] * len(commands), done.stdout
    for command, sentence in zip(commands, said, strict=True):
        assert sentence.startswith("oclr: ") and sentence.endswith("."), (command, sentence)
        denied = ("ermission denied", "cannot be written")
        assert any(word in sentence for word in denied), (command, sentence)
    assert not list((tmp_path / "out").iterdir())

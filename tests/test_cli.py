"""The command line: exit statuses, one sentence for every bad input, nothing half-written."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import oclr_jax
from oclr_jax import cli, files, pipeline
from oclr_jax.evaluate import run as evaluation
from oclr_jax.flow import to_folder, write_flo
from oclr_jax.models.oclr import parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.video.writer import video_writer
from oclr_jax.weights import convert
from oclr_jax.weights.file import save_weights
from tests.clips import CONFIG, INFO, moving_clip, texture, write_frames
from tests.video.videos import encode, packet_places

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights that fit the package's model and know nothing."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(CONFIG)
    params = {name: 0.1 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_weights(path, unflatten(params), INFO, dtype="float32")
    return path


@pytest.fixture
def clip(tmp_path):
    return write_frames(tmp_path / "clip", moving_clip(4))


def everything(folder) -> dict[str, bytes | None]:
    """Every path below a folder, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(capsys, tmp_path, *arguments) -> str:
    """Runs a command that must be refused, and returns its one sentence."""
    before = everything(tmp_path)
    assert cli.main([str(argument) for argument in arguments]) == 2
    assert everything(tmp_path) == before
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("oclr: ") and error.endswith(".\n") and error.count("\n") == 1
    return error


# Inputs that cannot be segmented: how to make one in a folder, and what is said of it.
def missing(folder):
    return folder / "nothing.mp4"


def no_video(folder):
    (folder / "text.mp4").write_text("this is no video")
    return folder / "text.mp4"


def empty_file(folder):
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def cut_short(folder):
    path = folder / "cut.mp4"
    with video_writer(path, 24, 64, 96) as add_frame:
        for frame in moving_clip(8):
            add_frame(frame)
    path.write_bytes(path.read_bytes()[:2000])
    return path


def no_images(folder):
    (folder / "in").mkdir()
    (folder / "in" / "notes.txt").write_text("no image")
    return folder / "in"


def mixed_sizes(folder):
    write_frames(folder / "in", moving_clip(3))
    cv2.imwrite(str(folder / "in" / "9.png"), texture(0, 64, 90))
    return folder / "in"


def broken_image(folder):
    write_frames(folder / "in", moving_clip(4))
    path = folder / "in" / "2.png"
    path.write_bytes(path.read_bytes()[:-3000])
    return folder / "in"


def no_image_inside(folder):
    write_frames(folder / "in", moving_clip(4))
    (folder / "in" / "3.png").write_text("no image")
    return folder / "in"


def single_frame(folder):
    return write_frames(folder / "in", moving_clip(1))


def tiny_frames(folder):
    return write_frames(folder / "in", moving_clip(3, height=15, width=40))


@pytest.mark.parametrize(
    "make, says",
    [
        (missing, "does not exist"),
        (no_video, "as a video"),
        (empty_file, "as a video"),
        (cut_short, "cut.mp4"),
        (no_images, "holds no images"),
        (mixed_sizes, "differ in size"),
        (broken_image, "2.png is broken"),
        (no_image_inside, "3.png is broken"),
        (single_frame, "single frame"),
        (tiny_frames, "at least 16"),
    ],
)
def test_bad_input(capsys, tmp_path, weights, make, says):
    (tmp_path / "source").mkdir()
    bad = make(tmp_path / "source")
    error = refused(capsys, tmp_path, "segment", bad, tmp_path / "out", "--weights", weights)
    assert says in error


def damaged(folder):
    """A video of 8 frames, each a key frame, of which the fourth is spoiled."""
    path = encode(folder / "damaged.mp4", moving_clip(8), "mjpeg", pixels="yuvj420p")
    content = bytearray(path.read_bytes())
    begin, end = packet_places(path)[3]
    content[begin:end] = bytes(end - begin)
    path.write_bytes(content)
    return path


def test_a_damaged_video_is_refused_or_reduced_to_its_intact_frames(capsys, tmp_path, weights):
    (tmp_path / "source").mkdir()
    video, output = damaged(tmp_path / "source"), tmp_path / "out"
    error = refused(capsys, tmp_path, "segment", video, output, "--weights", weights)
    assert "damaged: 7 of 8 frames are whole" in error and "--keep-damaged" in error
    arguments = [str(video), str(output), "--keep-damaged", "--quiet"]
    assert cli.main(["segment", *arguments, "--weights", str(weights)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("oclr: warning: ") and said.count("\n") == 1
    assert "7 of 8 frames are whole" in said
    assert len(list((output / "masks").iterdir())) == 7
    times = json.loads((output / "objects.json").read_text())["video"]["times"]
    assert times == pytest.approx([i / 24 for i in (0, 1, 2, 4, 5, 6, 7)], abs=1e-5)
    assert cli.main(["flow", *arguments]) == 0
    assert len(list((output / "Flows_gap1").iterdir())) == 6


def test_an_ambiguous_order_of_frames_is_told_in_a_line(capsys, tmp_path, weights):
    folder = write_frames(tmp_path / "in", moving_clip(3))
    for old, new in (("0", "-2"), ("1", "-1.5"), ("2", "-1.25")):
        (folder / f"{old}.png").rename(folder / f"{new}.png")
    command = ["segment", str(folder), str(tmp_path / "out"), "--weights", str(weights), "--quiet"]
    assert cli.main(command) == 0
    said = capsys.readouterr().err
    assert said.startswith("oclr: warning: ") and said.count("\n") == 1
    assert "from -2.png to -1.25.png" in said


def flow_that_fits(folder, size=(32, 48)):
    for gap, numbers in ((1, range(3)), (-1, range(1, 4))):
        for number in numbers:
            flow = np.ones((*size, 2), np.float32)
            write_flo(folder / f"Flows_gap{gap}" / f"{number}.flo", flow)
    return folder


def empty_flow(folder):
    folder.mkdir()


def missing_flow(folder):
    (flow_that_fits(folder) / "Flows_gap1" / "1.flo").unlink()


def other_stems(folder):
    file = flow_that_fits(folder) / "Flows_gap-1" / "3.flo"
    file.rename(file.with_name("30.flo"))


def broken_flow(folder):
    file = flow_that_fits(folder) / "Flows_gap1" / "1.flo"
    file.write_bytes(file.read_bytes()[:-8])


@pytest.mark.parametrize(
    "make, says",
    [
        (empty_flow, "Flows_gap"),
        (missing_flow, "does not match"),
        (other_stems, "does not match"),
        (broken_flow, "damaged"),
    ],
)
def test_a_bad_flow_folder(capsys, tmp_path, clip, weights, make, says):
    make(tmp_path / "flow")
    arguments = ("--weights", weights, "--flow", tmp_path / "flow")
    assert says in refused(capsys, tmp_path, "segment", clip, tmp_path / "out", *arguments)


def test_an_unknown_estimator(capsys, tmp_path, clip, weights):
    arguments = ("segment", clip, tmp_path / "out", "--weights", weights, "--flow", "magic")
    assert "The flow folder 'magic' does not exist" in refused(capsys, tmp_path, *arguments)


def test_bad_weights(capsys, tmp_path, clip, weights):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(weights.read_bytes()[:1000])
    for bad, says in (("no-such-name", "no weights"), (broken, "not a readable safetensors")):
        arguments = ("segment", clip, tmp_path / "out", "--weights", bad)
        assert says in refused(capsys, tmp_path, *arguments)


def test_an_output_in_use(capsys, tmp_path, clip, weights):
    (tmp_path / "file").write_text("mine")
    arguments = ("--weights", weights)
    assert "is a file" in refused(capsys, tmp_path, "segment", clip, tmp_path / "file", *arguments)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "objects.json").write_text("{}")
    error = refused(capsys, tmp_path, "segment", clip, tmp_path / "out", *arguments)
    assert "already has results" in error and "--overwrite" in error


@pytest.mark.parametrize("writer", ["write_png", "write_ids", "video_writer", "json"])
def test_a_full_disk(capsys, tmp_path, clip, weights, monkeypatch, writer):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pipeline, "find_tracks", one_track)
    if writer == "json":
        monkeypatch.setattr(files.json, "dumps", full)
    else:
        monkeypatch.setattr(pipeline, writer, full)
    error = refused(capsys, tmp_path, "segment", clip, tmp_path / "out", "--weights", weights)
    assert "disk is full" in error and str(tmp_path / "out") in error


def one_track(_segmenter, flows):
    from oclr_jax.oclr.strands import WindowLayers
    from oclr_jax.oclr.tracking import link_windows

    count = len(list(flows))
    probability = np.full((count, 32, 48, 1), 0.9, np.float32)
    images = np.zeros((count, 32, 48, 3), np.uint8)
    return link_windows([WindowLayers(0, 0, probability, np.zeros(1), images)]), True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("stage", ["find_tracks", "_write_frame"])
def test_signals_leave_nothing(capsys, tmp_path, clip, weights, monkeypatch, stage, number):
    monkeypatch.setattr(pipeline, "find_tracks", one_track)
    monkeypatch.setattr(pipeline, stage, lambda *_: os.kill(os.getpid(), number))
    before = everything(tmp_path)
    command = ["segment", str(clip), str(tmp_path / "new" / "out"), "--weights", str(weights)]
    assert cli.main(command) == 128 + number
    assert everything(tmp_path) == before
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("command", ["flow", "evaluate", "convert"])
def test_sigterm_leaves_nothing_of_the_other_commands(
    tmp_path, clip, weights, monkeypatch, command
):
    def terminated(*_arguments, **_options):
        signal.raise_signal(signal.SIGTERM)

    (tmp_path / "a.pth").touch()
    arguments, module, name = {
        "flow": ([clip, "new/out"], to_folder, "write_flo"),
        "evaluate": (
            ["--dataset", "folder", "--data", clip, "--output", "new/out"],
            evaluation,
            "open_dataset",
        ),
        "convert": (["a.pth", "new/out"], convert, "import_checkpoint"),
    }[command]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, name, terminated)
    before = everything(tmp_path)
    assert cli.main([command, *map(str, arguments)]) == 143
    assert everything(tmp_path) == before


def test_the_whole_path_with_real_weights(capsys, tmp_path, clip, weights):
    command = ["segment", str(clip), str(tmp_path / "out"), "--weights", str(weights)]
    assert cli.main(command) == 0
    out, error = capsys.readouterr()
    assert out.startswith("Moving objects found: ") and out.count("\n") == 1
    assert error == "", "no progress bar where standard error is no terminal"
    record = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert record["settings"]["weights"] == INFO.name
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4
    assert cli.main([*command, "--overwrite", "--quiet", "--no-overlay", "--flow", "dis"]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_still_video_says_so(capsys, tmp_path, weights):
    clip = write_frames(tmp_path / "still clip", np.stack([texture(0, 64, 96)] * 4))
    assert cli.main(["segment", str(clip), str(tmp_path / "out"), "--weights", str(weights)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Nothing moves in ") and out.count("\n") == 1
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


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


def test_results_beside_the_frames_are_no_frames(tmp_path, clip, weights):
    command = ["segment", str(clip), str(clip), "--weights", str(weights), "--overwrite"]
    for _ in range(2):
        assert cli.main(command) == 0
        record = json.loads((clip / "objects.json").read_text())
        assert record["video"]["frames"] == len(list((clip / "masks").iterdir())) == 4
    assert sorted(path.name for path in clip.glob("*.png")) == [f"{n}.png" for n in range(4)]


def test_names_that_are_no_text(capsys, tmp_path, clip, weights):
    """An output may have one, an input not: it is the name of the video in objects.json."""
    output = tmp_path / os.fsdecode(b"\xe9")
    assert cli.main(["segment", str(clip), str(output), "--weights", str(weights)]) == 0
    assert "see " in capsys.readouterr().out
    assert (output / "overlay.mp4").is_file() and (output / "objects.json").is_file()
    clip = clip.rename(tmp_path / os.fsdecode(b"caf\xe9"))
    arguments = ("segment", clip, tmp_path / "out", "--weights", weights)
    assert "not valid UTF-8; rename it" in refused(capsys, tmp_path, *arguments)


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


def test_convert_refuses_what_is_no_checkpoint(capsys, tmp_path):
    (tmp_path / "a.pth").write_text("no checkpoint")
    refused(capsys, tmp_path, "convert", tmp_path / "a.pth", tmp_path / "a.safetensors")


@pytest.mark.parametrize("command", [[], ["paint"], ["segment"], ["evaluate", "--data", "x"]])
def test_a_command_that_does_not_exist_or_fit(command):
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    assert stopped.value.code == 2


def test_compiled_programs_are_kept_in_the_cache_of_the_user(monkeypatch, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cli.main(["segment", "missing", "out"]) == 2
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == os.path.join("/caches", "oclr_jax", "jax")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "chosen")
    assert cli.main(["segment", "missing", "out"]) == 2
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "chosen"


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"oclr {oclr_jax.__version__}\n"

"""Output that is whole or absent: staging, publication, recovery, locks, and odd places."""

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.files import (
    PUBLISHING,
    STAGING,
    WriteError,
    check_input,
    locked_output,
    replacing,
    staged_output,
    write_json,
)
from oclr_jax.flow import write_flo
from oclr_jax.flow.kitti import write_kitti
from oclr_jax.models.oclr import parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.results import RESULT_NAMES
from oclr_jax.show.html import write_page
from oclr_jax.video.png import write_ids, write_png
from oclr_jax.video.writer import video_writer
from oclr_jax.weights.file import save_weights
from tests.clips import CONFIG, INFO

ROOT = Path(__file__).resolve().parents[1]


def everything(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(staged, text: str) -> None:
    (staged / "masks").mkdir()
    (staged / "masks" / "0.png").write_text(text)
    (staged / "objects.json").write_text(text)


def publish(output, text: str = "new", **options) -> None:
    with staged_output(output, RESULT_NAMES, **options) as staged:
        fill(staged, text)


PUBLISHED = ["masks", "masks/0.png", "objects.json"]


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "another file"])
def test_results_appear(tmp_path, there):
    output = tmp_path / "deep" / "out"
    if there != "nothing":
        output.mkdir(parents=True)
    if there == "another file":
        (output / "notes.txt").write_text("mine")
    with staged_output(output, RESULT_NAMES) as staged:
        fill(staged, "new")
        assert staged.is_relative_to(output) and not (output / "objects.json").exists()
    kept = ["notes.txt"] * (there == "another file")
    assert everything(output) == sorted(PUBLISHED + kept)
    assert everything(tmp_path)[:2] == ["deep", "deep/out"]


def test_old_results_go_when_the_new_ones_are_there(tmp_path):
    output = tmp_path / "out"
    with staged_output(output, RESULT_NAMES) as staged:
        fill(staged, "old")
        (staged / "overlay.mp4").write_text("old")
    with pytest.raises(UserError, match="already has results.*--overwrite"):
        publish(output, overwrite=False)
    with pytest.raises(UserError, match="choose another one.$"):
        publish(output)
    with staged_output(output, RESULT_NAMES, overwrite=True) as staged:
        fill(staged, "new")
        assert (output / "objects.json").read_text() == "old"
    assert everything(output) == PUBLISHED
    assert (output / "objects.json").read_text() == "new"


def test_a_kill_at_any_instant_leaves_old_or_new_results_whole(tmp_path):
    command = [sys.executable, "-m", "tests.kill_points", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_an_error_while_publishing_brings_the_old_results_back(tmp_path, monkeypatch):
    output, rename = tmp_path / "out", os.rename
    publish(output, "old")

    def refuse(source, target):
        if Path(source) == output / "masks":
            raise PermissionError(errno.EACCES, "Permission denied", str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(UserError, match=f"Cannot write {output}: Permission denied"):
        publish(output, "new", overwrite=True)
    assert everything(output) == PUBLISHED
    assert (output / "objects.json").read_text() == "old"


@pytest.mark.parametrize("marker, part", [(STAGING, "new"), (PUBLISHING, "old")])
def test_the_next_command_removes_what_a_killed_one_left(tmp_path, marker, part):
    """Also one of another kind, and also where it then fails."""
    fill_folder = tmp_path / "out" / marker / part
    fill_folder.mkdir(parents=True)
    fill(fill_folder, "left")
    with pytest.raises(ZeroDivisionError), staged_output(tmp_path / "out", ("Flows_gap1",)):
        raise ZeroDivisionError
    assert everything(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "error, raised, says",
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (UserError("The video is damaged."), UserError, "The video is damaged"),
        (OSError(errno.ENOSPC, "No space left on device"), UserError, "the disk is full; free"),
        (OSError(errno.EFBIG, "File too large"), UserError, "File too large; free"),
        # About an input that was read meanwhile: not of the output.
        (PermissionError(errno.EACCES, "Permission denied", "in/0.png"), PermissionError, "in/0"),
        (OSError("image file is truncated"), OSError, "truncated"),
    ],
)
def test_a_failure_leaves_nothing(tmp_path, error, raised, says):
    with (
        pytest.raises(raised, match=says),
        staged_output(tmp_path / "a" / "b" / "out", RESULT_NAMES) as staged,
    ):
        fill(staged, "half")
        raise error
    assert everything(tmp_path) == []


def test_a_failure_leaves_old_results(tmp_path):
    output = tmp_path / "out"
    publish(output, "old")
    with pytest.raises(KeyboardInterrupt), staged_output(output, RESULT_NAMES, True) as staged:
        fill(staged, "half")
        raise KeyboardInterrupt
    assert everything(tmp_path) == ["out", *(f"out/{name}" for name in PUBLISHED)]
    assert (output / "objects.json").read_text() == "old"


def test_a_full_disk_is_named_although_a_file_writer_said_it_first(tmp_path):
    output = tmp_path / "out"
    with (
        pytest.raises(UserError, match=f"Cannot write {output}: the disk is full"),
        staged_output(output, RESULT_NAMES) as staged,
        replacing(staged / "masks" / "0.png"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert everything(tmp_path) == []


def test_a_write_error_comes_back_from_another_process():
    error = WriteError("out", errno.ENOSPC, "the disk is full")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_an_input_inside_the_results_is_refused(tmp_path):
    """Replacing the results would delete it."""
    output = tmp_path / "out"
    publish(output, "old")
    (tmp_path / "link").symlink_to(output / "masks")
    for given in (
        output / "masks",
        output / "masks" / "0.png",
        output / "objects.json",
        tmp_path / "link" / "0.png",
        f"raft:{output / 'masks' / '0.png'}",
    ):
        for overwrite in (True, False):
            with pytest.raises(UserError, match="is read, and lies in .*another output folder"):
                publish(output, overwrite=overwrite, inputs=(None, "dis", given))
    publish(output, overwrite=True, inputs=(output, tmp_path, "masks"))
    assert (output / "objects.json").read_text() == "new"


def test_two_commands_at_once_are_refused(tmp_path):
    output = tmp_path / "out"
    with staged_output(output, RESULT_NAMES) as staged:
        fill(staged, "first")
        with pytest.raises(UserError, match="Another command is writing to"):
            publish(output, "second")
        with pytest.raises(UserError, match="Another command"), locked_output(output):
            pass
    assert (output / "objects.json").read_text() == "first"


def test_places_that_cannot_hold_results(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place, says in (
        (tmp_path / "file", "is a file"),
        (tmp_path / "file" / "out", "Cannot write"),
        (tmp_path / ("x" * 300) / "out", "x{300}"),
        ("/", "root of the file system"),
        ("/..", "root of the file system"),
        ("", "output is empty"),
        ("gs://bucket/out", "gs://bucket/out is not on this machine"),
    ):
        with pytest.raises((UserError, OSError), match=says):
            publish(place)
    assert everything(tmp_path) == ["file"]


def as_nobody(code: str) -> str:
    """The output of Python code that runs without root's rights, which no test has otherwise."""
    if os.getuid() != 0:
        pytest.skip("only root can give up its rights")
    # Imported before, because the checkout may lie where nobody may not look.
    code = (
        "import os, sys\nfrom oclr_jax.errors import UserError\n"
        "from oclr_jax.files import staged_output\n"
        f"os.setgid(65534); os.setuid(65534)\n{code}"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def public_folder():
    """A folder that every user may enter, which those of pytest are not."""
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_rights(public_folder):
    """A writable folder inside one that is not works; what cannot be written is refused first."""
    for folder, mode in (("ours", 0o777), ("theirs", 0o755), ("closed", 0o700)):
        (public_folder / folder).mkdir()
        (public_folder / folder).chmod(mode)
    kept = public_folder / "ours" / "kept"
    (kept / "masks").mkdir(parents=True)
    kept.chmod(0o777)
    printed = as_nobody(f"""
for folder in ("ours", "theirs", "theirs/new", "closed/new", "ours/kept"):
    try:
        with staged_output({str(public_folder)!r} + "/" + folder, ("masks",), True) as staged:
            (staged / "masks").write_text("new")
        print("written")
    except (UserError, OSError) as error:
        print(error)
""")
    written, theirs, theirs_new, closed, kept = printed.splitlines()
    assert written == "written"
    assert "theirs cannot be written" in theirs
    assert "theirs/new: Permission denied" in theirs_new
    assert "Permission denied" in closed and "closed/new" in closed
    assert "masks cannot be replaced" in kept


@pytest.fixture
def other_disk():
    """A folder on another file system than that of the tests."""
    disk = Path("/dev/shm")
    if not disk.is_dir():
        pytest.skip("no memory disk here")
    folder = disk / f"oclr-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-r", str(folder)], check=True)


@pytest.mark.parametrize("there", [True, False])
def test_a_link_to_another_disk(tmp_path, other_disk, there):
    assert os.stat(tmp_path).st_dev != os.stat(other_disk).st_dev
    target = other_disk / "results"
    if there:
        target.mkdir()
    (tmp_path / "out").symlink_to(target)
    publish(tmp_path / "out", "old")
    publish(tmp_path / "out", "new", overwrite=True)
    assert everything(target) == PUBLISHED
    assert (tmp_path / "out").is_symlink() and everything(tmp_path) == ["out"]


@pytest.fixture
def small_disk(tmp_path):
    """A mounted file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_mount_point(small_disk):
    publish(small_disk, "old")
    publish(small_disk, "new", overwrite=True)
    assert everything(small_disk) == PUBLISHED
    with (
        pytest.raises(UserError, match="the disk is full"),
        staged_output(small_disk, RESULT_NAMES, overwrite=True) as staged,
    ):
        (staged / "masks").write_bytes(bytes(1_000_000))
    assert (small_disk / "objects.json").read_text() == "new"
    assert everything(small_disk) == PUBLISHED


def write_video(path: Path) -> None:
    with video_writer(path, 24, 64, 96) as add_frame:
        for frame in np.random.default_rng(0).integers(0, 256, (20, 64, 96, 3)).astype(np.uint8):
            add_frame(frame)


WRITERS = {
    "mask.png": lambda path: write_ids(path, np.ones((64, 96), np.uint8)),
    "picture.png": lambda path: write_png(path, np.zeros((64, 96, 3), np.uint8)),
    "overlay.mp4": write_video,
    "record.json": lambda path: write_json(path, list(range(9))),
    "flow.flo": lambda path: write_flo(path, np.zeros((8, 8, 2), np.float32)),
    "flow.png": lambda path: write_kitti(path, np.zeros((8, 8, 2), np.float32)),
    "page.html": lambda path: write_page(path, "title", ["text"]),
    "weights.safetensors": lambda path: save_weights(path, zero_weights(), INFO),
}


def zero_weights() -> dict:
    shapes = parameter_shapes(CONFIG)
    return unflatten({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_names_a_full_disk(small_disk, name):
    with pytest.raises(OSError, match="No space"), open(small_disk / "filler", "wb", 0) as filler:
        while True:
            filler.write(bytes(4096))
    path = small_disk / name
    with pytest.raises(UserError, match=f"Cannot write {path}: the disk is full; free some space"):
        WRITERS[name](path)
    assert everything(small_disk) == ["filler"]


def test_a_mount_point_among_the_results(small_disk):
    with (
        pytest.raises(UserError, match="disk cannot be replaced"),
        staged_output(small_disk.parent, ("disk",), True),
    ):
        pass


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / f"{'x' * 240}.png"
    with replacing(path) as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert everything(tmp_path) == ["deep", f"deep/{path.name}"]


def test_what_a_killed_writer_left_is_reused(tmp_path):
    code = (
        "import os, sys\nfrom oclr_jax.files import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n    os._exit(0)"
    )
    path = tmp_path / "a.txt"
    subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, check=True)
    assert len(everything(tmp_path)) == 1 and not path.exists()
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert everything(tmp_path) == ["a.txt"] and path.read_text() == "whole"


def test_two_writers_of_one_file(tmp_path):
    with replacing(tmp_path / "a") as one, replacing(tmp_path / "a") as other:
        one.write_text("one")
        other.write_text("the other")
    assert everything(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "one"


@pytest.mark.parametrize("place", ["", ".", "folder"])
def test_a_folder_is_no_file(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="it is a folder"), replacing(place):
        pass


def test_json_of_names_that_are_no_text(tmp_path):
    names = {"name": os.fsdecode(b"caf\xe9"), "other": "café"}
    write_json(tmp_path / "a.json", names)
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert json.loads(text) == names and "café" in text


@pytest.mark.parametrize(
    "given, says",
    [
        ("", "input is empty"),
        ("https://host/a.mp4", "^https://host/a.mp4 is a URL; download it"),
        ("frames/*.png", "give the folder of the frames, frames"),
        ("frames/%05d.png", "give the folder of the frames, frames"),
        ("missing.mp4", "missing.mp4 does not exist"),
    ],
)
def test_inputs_that_are_not_there(tmp_path, monkeypatch, given, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        check_input(given)
    (tmp_path / "100%d [1].mp4").touch()
    assert check_input("100%d [1].mp4") == Path("100%d [1].mp4")

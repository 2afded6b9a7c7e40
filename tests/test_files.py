"""Results appear whole or not at all."""

import errno

import pytest

from oclr_jax.errors import UserError
from oclr_jax.files import staged_output
from oclr_jax.results import RESULT_NAMES


def everything(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def fill(staged, text: str) -> None:
    (staged / "masks").mkdir()
    (staged / "masks" / "0.png").write_text(text)
    (staged / "objects.json").write_text(text)


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "another file"])
def test_results_appear(tmp_path, there):
    output = tmp_path / "deep" / "out"
    if there != "nothing":
        output.mkdir(parents=True)
    if there == "another file":
        (output / "notes.txt").write_text("mine")
    with staged_output(output, RESULT_NAMES) as staged:
        fill(staged, "new")
        assert staged.parent == output.parent and staged.name.startswith(".")
    kept = ["deep/out/notes.txt"] * (there == "another file")
    made = ["deep", "deep/out", "deep/out/masks", "deep/out/masks/0.png", "deep/out/objects.json"]
    assert everything(tmp_path) == sorted(made + kept)


def test_old_results_go_when_the_new_ones_are_there(tmp_path):
    output = tmp_path / "out"
    with staged_output(output, RESULT_NAMES) as staged:
        fill(staged, "old")
        (staged / "overlay.mp4").write_text("old")
    with staged_output(output, RESULT_NAMES) as staged:
        fill(staged, "new")
        assert (output / "objects.json").read_text() == "old"
    assert everything(output) == ["masks", "masks/0.png", "objects.json"]
    assert (output / "objects.json").read_text() == "new"


@pytest.mark.parametrize(
    "error, raised, says",
    [
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (UserError("The video is damaged."), UserError, "The video is damaged"),
        (OSError(errno.ENOSPC, "No space left on device"), UserError, "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), UserError, "Permission denied"),
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
    with staged_output(output, RESULT_NAMES) as staged:
        fill(staged, "old")
    with pytest.raises(KeyboardInterrupt), staged_output(output, RESULT_NAMES) as staged:
        fill(staged, "half")
        raise KeyboardInterrupt
    assert everything(tmp_path) == ["out", "out/masks", "out/masks/0.png", "out/objects.json"]
    assert (output / "objects.json").read_text() == "old"


def test_a_full_disk_is_named_although_a_file_writer_said_it_first(tmp_path):
    output = tmp_path / "out"
    with (
        pytest.raises(UserError, match=f"disk is full, so {output}"),
        staged_output(output, RESULT_NAMES),
    ):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise UserError("Cannot write .out.1234/masks/0.png.") from error
    assert everything(tmp_path) == []


def test_a_file_in_the_way_of_a_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with (
        pytest.raises(UserError, match="Cannot write"),
        staged_output(tmp_path / "file" / "out", RESULT_NAMES),
    ):
        pass
    assert everything(tmp_path) == ["file"]

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.flow import FlowFolder, flow_path, write_flo

STEMS = ["00000", "00001", "00002"]


def fill(folder, sequence=None, stems=STEMS, size=(4, 6)):
    """Flow whose u is the frame's index and whose v is the gap; ends left out."""
    for gap in (1, -1):
        for index, stem in enumerate(stems):
            if 0 <= index + gap < len(stems):
                flow = np.full((*size, 2), [index, gap], np.float32)
                write_flo(flow_path(folder, gap, stem, sequence), flow)


@pytest.mark.parametrize("sequence", [None, "a swan"])
def test_reads_the_published_layout_and_fills_the_ends(tmp_path, sequence):
    fill(tmp_path, sequence)
    if sequence:
        fill(tmp_path, "another")
    flows = FlowFolder(tmp_path, STEMS, sequence=sequence)
    assert (len(flows), flows.height, flows.width) == (3, 4, 6)
    np.testing.assert_array_equal(
        np.stack(list(flows))[:, 0, 0],
        [[0, 1, -0, -1], [1, 1, 1, -1], [-2, 1, 2, -1]],
    )


def test_files_lie_where_the_published_program_has_them(tmp_path):
    path = flow_path(tmp_path, -1, "00003", "swan")
    assert path == tmp_path / "Flows_gap-1" / "swan" / "00003.flo"


def test_a_single_subfolder_needs_no_name(tmp_path):
    fill(tmp_path, "whatever")
    assert len(FlowFolder(tmp_path, STEMS, sequence="clip")) == 3


def test_flow_stored_at_the_ends_is_not_needed_and_not_used(tmp_path):
    fill(tmp_path)
    write_flo(flow_path(tmp_path, 1, STEMS[-1]), np.full((4, 6, 2), 99, np.float32))
    np.testing.assert_array_equal(FlowFolder(tmp_path, STEMS).read(2)[0, 0], [-2, 1, 2, -1])


def test_files_of_the_system_are_ignored(tmp_path):
    fill(tmp_path, "clip")
    for folder in (tmp_path / "Flows_gap1", tmp_path / "Flows_gap1" / "clip"):
        (folder / ".ipynb_checkpoints").mkdir()
        (folder / "__MACOSX").mkdir()
        for name in ("._00001.flo", "Thumbs.db", "desktop.ini", ".DS_Store"):
            (folder / name).write_bytes(b"left by the system")
    assert len(list(FlowFolder(tmp_path, STEMS))) == 3


def damage_missing_gap(folder):
    for file in (folder / "Flows_gap-1").iterdir():
        file.unlink()
    (folder / "Flows_gap-1").rmdir()


def damage_empty(folder):
    for file in (folder / "Flows_gap1").iterdir():
        file.unlink()


def damage_missing_file(folder):
    flow_path(folder, 1, "00001").unlink()


def damage_extra_file(folder):
    write_flo(flow_path(folder, 1, "00007"), np.zeros((4, 6, 2), np.float32))


def damage_size(folder):
    write_flo(flow_path(folder, -1, "00001"), np.zeros((5, 6, 2), np.float32))


def damage_content(folder):
    flow_path(folder, -1, "00001").write_bytes(b"no flow")


def damage_many_videos(folder):
    damage_empty(folder)
    fill(folder, "one")
    fill(folder, "two")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_missing_gap, "has no Flows_gap-1"),
        (damage_empty, "is empty"),
        (damage_missing_file, r"00001\.flo is missing"),
        (damage_extra_file, "no frame is called 00007"),
        (damage_size, "differ in size"),
        (damage_content, "not a .flo"),
        (damage_many_videos, "flow of 2 videos"),
    ],
)
def test_a_folder_that_does_not_match_is_refused(tmp_path, damage, words):
    fill(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=words):
        FlowFolder(tmp_path, STEMS)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        FlowFolder(tmp_path / "none", STEMS)

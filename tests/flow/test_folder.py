import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.flow import FlowFolder, flow_path, write_flo
from oclr_jax.flow.kitti import write_kitti

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


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e10])
def test_unknown_vectors_are_filled_from_the_nearest_known_one(tmp_path, value):
    fill(tmp_path)
    flow = np.arange(48, dtype=np.float32).reshape(4, 6, 2)
    expected = flow.copy()
    flow[1, 2], flow[0, 5] = value, (0, value)
    path = flow_path(tmp_path, 1, "00001")
    # Not by `write_flo`, which has one value for all that is unknown.
    path.write_bytes(path.read_bytes()[:12] + flow.tobytes())
    found = FlowFolder(tmp_path, STEMS).read(1)[..., :2]
    assert found[1, 2].tolist() in [
        flow[y, x].tolist() for y, x in ((0, 2), (2, 2), (1, 1), (1, 3))
    ]
    expected[1, 2] = found[1, 2]
    assert found[0, 5].tolist() in [flow[0, 4].tolist(), flow[1, 5].tolist()]
    expected[0, 5] = found[0, 5]
    np.testing.assert_array_equal(found, expected)


def test_the_valid_mask_of_kitti_files_counts(tmp_path):
    flow, valid = np.full((4, 6, 2), 3, np.float32), np.ones((4, 6), bool)
    valid[:, :3] = False
    for gap, stems in ((1, STEMS[:2]), (-1, STEMS[1:])):
        for stem in stems:
            write_kitti(flow_path(tmp_path, gap, stem).with_suffix(".png"), flow, valid)
    found = np.stack(list(FlowFolder(tmp_path, STEMS)))
    assert (np.abs(found) == 3).all()


def test_a_frame_that_is_mostly_unknown_is_named(tmp_path):
    fill(tmp_path)
    flow = np.ones((4, 6, 2), np.float32)
    flow[:, :3] = np.nan
    write_flo(flow_path(tmp_path, -1, "00001"), flow)
    flows = FlowFolder(tmp_path, STEMS)
    assert (flows.read(1)[..., 2:] == 1).all()
    flow[0, 3] = np.nan
    write_flo(flow_path(tmp_path, -1, "00001"), flow)
    with pytest.raises(UserError, match=r"Flows_gap-1.00001\.flo is unknown .* at 54%"):
        flows.read(1)


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

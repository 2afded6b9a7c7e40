"""Corrections on disk: kept, undone, replayed into a folder of results."""

import json

import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.corrections.apply import apply_corrections
from oclr_jax.corrections.file import Corrections
from oclr_jax.corrections.result import Result
from oclr_jax.errors import UserError
from oclr_jax.results import read_record
from oclr_jax.video.clip import open_clip
from oclr_jax.video.png import read_ids
from tests.clips import moving_clip, write_frames
from tests.corrections.results import HEIGHT, WIDTH, crossing, visible, write_result


@pytest.fixture
def result(tmp_path):
    return write_result(tmp_path)


def corrections(result) -> Corrections:
    return Corrections(result, read_record(result))


def contents(folder) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_corrections_are_kept_undone_and_made_again(result):
    first = corrections(result)
    first.add({"kind": "split", "id": 2, "frame": 3})
    first.add({"kind": "drop", "id": 3})
    first.add({"kind": "merge", "id": 4, "into": 1})
    first.undo()
    first.undo()
    again = corrections(result)
    assert again.to_json() == [{"kind": "split", "id": 2, "frame": 3, "new_id": 4}]
    assert again.scene.order == (1, 2, 4, 3)
    again.redo()
    assert again.scene.order == (1, 2, 4)
    assert [operation.describe() for operation in corrections(result).undone] == ["merge 4 into 1"]
    again.add({"kind": "foreground", "ids": [1]})
    with pytest.raises(UserError, match="no correction to make again"):
        corrections(result).redo()
    for _ in range(3):
        again.undo()
    with pytest.raises(UserError, match="no correction to undo"):
        again.undo()


def test_corrections_of_other_results_are_refused(result):
    corrections(result).add({"kind": "drop", "id": 3})
    record = json.loads((result / "objects.json").read_text())
    record["settings"]["version"] = "another"
    (result / "objects.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="other results"):
        corrections(result)


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "no file of corrections"),
        ("[]", "no file of corrections"),
        ('{"schema_version": 9, "result": "", "operations": [], "undone": []}', "version 9"),
    ],
)
def test_broken_files_of_corrections(result, text, says):
    (result / "corrections.json").write_text(text)
    with pytest.raises(UserError, match=says):
        corrections(result)


def test_a_replay_writes_whole_results_and_leaves_the_old_ones(result):
    made = corrections(result)
    made.add({"kind": "order", "ids": [2, 1, 3]})
    made.add({"kind": "drop", "id": 3})
    made.add({"kind": "foreground", "ids": [2]})
    before = contents(result)
    assert cli.main(["apply", str(result), "--quiet"]) == 0
    after = contents(result)
    assert {name: after[name] for name in before} == before
    output, found = result / "corrected", crossing(6)
    for frame in range(6):
        ids = read_ids(output / "masks" / f"{frame}.png")
        assert np.array_equal(ids, visible({2: found[2][frame], 1: found[1][frame]}))
        chosen = read_ids(output / "foreground" / f"{frame}.png")
        assert np.array_equal(chosen, np.where(ids == 2, np.uint8(255), np.uint8(0)))
    assert sorted(path.name for path in (output / "amodal").iterdir()) == ["1", "2"]
    record = read_record(output)
    assert [(entry["id"], entry["depth_rank"]) for entry in record["objects"]] == [(1, 1), (2, 0)]
    assert record["objects"][0]["score"] == pytest.approx(0.9)
    assert record["settings"]["foreground"] == [2]
    assert record["settings"]["corrections"] == made.to_json()
    clip = open_clip(output / "overlay.mp4")
    assert (clip.count, clip.fps) == (6, 24)
    # It is a result like any other.
    assert Result(output).open_video().path == result.parent / "clip"
    assert apply_corrections(output)["objects"] == record["objects"]


def test_without_corrections_the_results_are_the_same(result):
    apply_corrections(result, overlay=False)
    old, new = (contents(result / part) for part in (".", "corrected"))
    for name in new:
        if name != "objects.json":
            assert new[name] == old[name], name
    assert read_record(result / "corrected")["objects"] == read_record(result)["objects"]
    assert not (result / "corrected" / "foreground").exists()


def test_corrected_results_are_exported(result):
    corrections(result).add({"kind": "merge", "id": 3, "into": 2})
    arguments = ["apply", str(result), "--quiet", "--no-overlay", "--export", "npz,gif"]
    assert cli.main(arguments) == 0
    assert not (result / "corrected" / "overlay.mp4").exists()
    exported = np.load(result / "corrected" / "exports" / "masks.npz")
    ids = np.stack([read_ids(result / "corrected" / "masks" / f"{n}.png") for n in range(6)])
    assert np.array_equal(exported["masks"], ids) and set(np.unique(ids)) == {0, 1, 2}
    gif = open_clip(result / "corrected" / "exports" / "overlay.gif")
    assert gif.count == 3, "a GIF has every other frame of 24 a second"
    with pytest.raises(UserError, match="no format 'avi'"):
        apply_corrections(result, export=["avi"])


def test_a_second_replay_replaces_the_first(result):
    corrections(result).add({"kind": "foreground", "ids": [1]})
    apply_corrections(result, overlay=False)
    corrections(result).undo()
    apply_corrections(result)
    assert sorted(path.name for path in (result / "corrected").iterdir()) == [
        "amodal",
        "masks",
        "objects.json",
        "overlay.mp4",
    ]


def missing_video(result):
    (result.parent / "clip").rename(result.parent / "away")


def other_length(result):
    (result.parent / "clip" / "5.png").unlink()


def longer(result):
    file = result.parent / "clip" / "5.png"
    (result.parent / "clip" / "6.png").write_bytes(file.read_bytes())


def other_size(result):
    missing_video(result)
    write_frames(result.parent / "clip", moving_clip(6, HEIGHT, WIDTH + 2))


def missing_mask(result):
    (result / "masks" / "3.png").unlink()


def other_masks(result):
    (result / "masks" / "3.png").rename(result / "masks" / "30.png")


def frame_beyond_the_end(result):
    record = json.loads((result / "objects.json").read_text())
    record["objects"][0]["frames"][-1]["frame"] = 9
    (result / "objects.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    "spoil, says",
    [
        (frame_beyond_the_end, "objects.json"),
        (missing_video, "no longer there"),
        (other_length, "has 5 frames and the results 6"),
        (longer, "has 7 frames and the results 6"),
        (other_size, "give the video that was segmented"),
        (missing_mask, "not those of objects.json"),
        (other_masks, "not those of objects.json"),
    ],
)
def test_what_cannot_be_replayed_leaves_nothing(capsys, result, spoil, says):
    spoil(result)
    before = contents(result.parent)
    assert cli.main(["apply", str(result)]) == 2
    out, error = capsys.readouterr()
    assert out == "" and says in error and error.count("\n") == 1
    assert contents(result.parent) == before
    if spoil is missing_video:
        arguments = ["apply", str(result), "--video", str(result.parent / "away")]
        assert cli.main(arguments) == 0

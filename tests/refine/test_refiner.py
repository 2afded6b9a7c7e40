"""The seam for refiners: what they see, what becomes of what they return, and where it is told."""

import dataclasses
import json
import re

import cv2
import numpy as np
import pytest

from oclr_jax import cli, pipeline
from oclr_jax.errors import UserError
from oclr_jax.evaluate import evaluate_dataset, format_table, run
from oclr_jax.flow import from_settings, stream_flow
from oclr_jax.pipeline import segment_to_folder, segment_video
from oclr_jax.refine import refiner
from oclr_jax.refine.refiner import REFINERS, Refiner, RefinerVideo, open_refiners
from oclr_jax.tracks import StoredMask, Track
from oclr_jax.video.clip import open_clip
from oclr_jax.video.png import read_ids, write_ids
from tests.clips import INFO, motion_segmenter, moving_clip, square_masks, write_frames
from tests.datasets.miniatures import MINIATURES

FRAMES = 9


@pytest.fixture(autouse=True)
def motion_model(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    for room in (pipeline, run):
        monkeypatch.setattr(room, "load_segmenter", lambda *_: motion_segmenter())


class Painter:
    """Replaces every modal mask by one that a function paints at twice the model grid's size."""

    name = "painter"

    def __init__(self, paint):
        self.paint = paint

    def settings(self):
        return {"size": [64, 96]}

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        refined = []
        for track in tracks:
            modal, soft = {}, {}
            for frame, stored in track.amodal_probability.items():
                probability = self.paint(cv2.resize(stored.decode(), (96, 64)))
                modal[frame] = StoredMask.encode(probability > 0.5, probability)
                soft[frame] = video.store_probability(probability)
            refined.append(dataclasses.replace(track, modal=modal, modal_probability=soft))
        return refined


def left_half(probability: np.ndarray) -> np.ndarray:
    painted = probability.copy()
    painted[:, painted.shape[1] // 2 :] = 0
    return painted


def nothing(probability: np.ndarray) -> np.ndarray:
    return np.zeros_like(probability)


class Observer:
    """Changes nothing and keeps what it was given."""

    name = "observer"

    def settings(self):
        return {}

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        self.video, self.tracks = video, tracks
        return tracks


def register(monkeypatch, **refiners: Refiner) -> None:
    for name, made in refiners.items():
        monkeypatch.setitem(REFINERS, name, lambda made=made: made)


def test_refined_masks_are_what_is_written(tmp_path, monkeypatch):
    register(monkeypatch, painter=Painter(left_half))
    source = write_frames(tmp_path / "frames", moving_clip(FRAMES))
    plain, record = (
        segment_video(source),
        segment_to_folder(source, tmp_path / "out", refine=["painter"]),
    )
    refined = segment_video(source, refine=["painter"])
    assert refined.masks[:, :, :46].any() and not refined.masks[:, :, 50:].any()
    assert plain.masks[:, :, 50:].any()
    for frame in range(FRAMES):
        written = read_ids(tmp_path / "out" / "masks" / f"{frame}.png")
        assert np.array_equal(written, refined.masks[frame])
    assert refined.record["objects"] == record["objects"]
    assert [entry["id"] for entry in record["objects"]] == list(plain.amodal)
    for id, amodal in plain.amodal.items():
        assert np.array_equal(refined.amodal[id], amodal), "amodal masks stay the flow model's"
        (entry,) = (entry for entry in record["objects"] if entry["id"] == id)
        for found in entry["frames"]:
            assert found["area"] == (refined.masks[found["frame"]] == id).sum()
            assert found["score"] > 0


def test_refiners_are_recorded_in_their_order(tmp_path, monkeypatch):
    register(monkeypatch, painter=Painter(left_half), observer=Observer())
    source = write_frames(tmp_path / "frames", moving_clip(FRAMES))
    arguments = ["segment", str(source), str(tmp_path / "out"), "--refine", "painter,observer"]
    assert cli.main([*arguments, "--quiet"]) == 0
    record = json.loads((tmp_path / "out" / "objects.json").read_text())
    assert record["settings"]["refiners"] == [
        {"name": "painter", "size": [64, 96]},
        {"name": "observer"},
    ]
    assert segment_video(source).record["settings"]["refiners"] == []


def test_default_refiners_are_applied_unless_none_are_asked_for(tmp_path, monkeypatch):
    register(monkeypatch, painter=Painter(nothing))
    monkeypatch.setattr(refiner, "DEFAULT_REFINERS", ("painter",))
    source = write_frames(tmp_path / "frames", moving_clip(FRAMES))
    assert not segment_video(source).masks.any() and segment_video(source, refine=()).masks.any()
    for name, option, used in (("a", [], ["painter"]), ("b", ["--refine", "none"], [])):
        arguments = ["segment", str(source), str(tmp_path / name), "--quiet", *option]
        assert cli.main(arguments) == 0
        record = json.loads((tmp_path / name / "objects.json").read_text())
        assert [entry["name"] for entry in record["settings"]["refiners"]] == used
    data = make_dataset(tmp_path / "data")
    report = evaluate_dataset("folder", data, protocols=["union"])
    assert [entry["name"] for entry in report["refiners"]] == ["painter"]
    masks = evaluate_dataset("folder", data, results=data / "Annotations", protocols=["union"])
    assert masks["refiners"] == []


def test_a_refiner_sees_frames_flow_and_probabilities(monkeypatch):
    observer = Observer()
    register(monkeypatch, observer=observer)
    frames = np.concatenate([moving_clip(7), 255 - moving_clip(FRAMES, seed=10)])
    result = segment_video(frames, refine=["observer"])
    video = observer.video
    assert [shot.start for shot in video.clip.shots] == [0, 7]
    assert (video.grid, video.gaps) == ((32, 48), (1, -1))
    for _ in range(2):
        assert np.array_equal(np.stack(list(video.frames("reading"))), frames)
    for frame in range(len(frames)):
        np.testing.assert_allclose(video.flow(frame), result.flow[frame], rtol=1e-3, atol=1e-3)
    assert len(observer.tracks) == 4
    for track in observer.tracks:
        shot = video.clip.shots[track.shot]
        assert set(track.amodal) <= set(track.amodal_probability) <= set(shot)
        for frame, stored in track.amodal_probability.items():
            mask = track.amodal[frame].decode() if frame in track.amodal else np.zeros((32, 48))
            assert np.array_equal(stored.decode() > 0.5, mask)


def test_a_shot_without_flow(monkeypatch):
    observer = Observer()
    register(monkeypatch, observer=observer)
    other = 255 - moving_clip(1, seed=50)
    segment_video(np.concatenate([moving_clip(7), other]), refine=["observer"])
    assert observer.video.flow(7) is None and observer.video.flow(6) is not None


def test_refiners_follow_one_another(monkeypatch):
    first, second = Painter(left_half), Observer()
    register(monkeypatch, first=first, second=second)
    segment_video(moving_clip(FRAMES), refine=["first", "second"])
    for track in second.tracks:
        assert track.modal.keys() == track.modal_probability.keys()
        for frame, stored in track.modal_probability.items():
            assert stored.shape == (64, 96)
            assert np.array_equal(stored.decode() > 0.5, track.modal[frame].decode())


def test_an_object_that_a_refiner_removes_keeps_its_amodal_mask(monkeypatch):
    register(monkeypatch, painter=Painter(nothing))
    result = segment_video(moving_clip(FRAMES), refine=["painter"])
    assert not result.masks.any() and all(mask.any() for mask in result.amodal.values())
    assert all(
        found["area"] == 0 for entry in result.record["objects"] for found in entry["frames"]
    )


def test_ids_must_not_change(monkeypatch):
    class Wrong(Observer):
        def __init__(self, change):
            self.change = change

        def __call__(self, video, tracks):
            return self.change(tracks)

    changes = {
        "drops": lambda tracks: tracks[:1],
        "reverses": lambda tracks: tracks[::-1],
        "renames": lambda tracks: [dataclasses.replace(t, id=t.id + 1) for t in tracks],
    }
    for name, change in changes.items():
        register(monkeypatch, **{name: Wrong(change)})
        with pytest.raises(ValueError, match=r"must return the tracks \[1, 2\]"):
            segment_video(moving_clip(FRAMES), refine=[name])


def test_nothing_is_stored_without_refiners():
    clip = open_clip(moving_clip(FRAMES))
    flows = stream_flow(clip, from_settings(INFO.flow), (1, -1), (32, 48))
    tracks, _ = pipeline.run(clip, flows, motion_segmenter())
    assert len(tracks) == 2 and not any(track.amodal_probability for track in tracks)


def test_features_come_from_the_cache_where_they_were_computed(tmp_path, monkeypatch):
    observer, asked = Observer(), []
    register(monkeypatch, observer=observer)

    def compute(frames):
        for frame in frames:
            asked.append(frame.shape)
            yield frame[::8, ::8].astype(np.float16)

    segment_video(moving_clip(4), refine=["observer"])
    features = observer.video.features("mean", 32, 48, compute)
    assert asked == [(32, 48, 3)] * 4
    assert features[3].shape == (4, 6, 3)
    assert observer.video.features("mean", 32, 48, compute)[3] is features[3]
    observer.video.features("other", 16, 48, compute)
    assert asked[4:] == [(16, 48, 3)] * 4


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_an_unknown_refiner_is_answered_before_any_work(tmp_path, capsys, command):
    arguments = {
        "segment": ["segment", str(tmp_path / "missing.mp4"), str(tmp_path / "out")],
        "evaluate": ["evaluate", "--dataset", "folder", "--data", str(tmp_path / "missing")],
    }[command]
    assert cli.main([*arguments, "--refine", "none,other"]) == 2
    error = capsys.readouterr().err
    assert "There is no refiner 'none'; choose from self" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_refiner_that_lacks_something_says_so_first(monkeypatch):
    def without_weights():
        raise UserError("The weights dino are missing; put them into the cache folder.")

    monkeypatch.setitem(REFINERS, "tta", without_weights)
    with pytest.raises(UserError, match="dino are missing"):
        segment_video(np.zeros((1, 1, 1, 3), np.uint8), refine=["tta"])


def make_dataset(root):
    write_frames(root / "JPEGImages" / "first", moving_clip(FRAMES))
    for number, ids in enumerate(square_masks(FRAMES)):
        write_ids(root / "Annotations" / "first" / f"{number}.png", ids)
    return root


def test_evaluation_refines_tracks_and_leaves_windows_alone(tmp_path, monkeypatch):
    register(monkeypatch, painter=Painter(nothing))
    root, protocols = make_dataset(tmp_path / "data"), ("paper", "sequence-oracle")
    plain = evaluate_dataset("folder", root, protocols=protocols)
    output = tmp_path / "out"
    report = evaluate_dataset(
        "folder", root, protocols=protocols, refine=["painter"], output=output
    )
    assert report["mean"]["paper"] == plain["mean"]["paper"]
    assert plain["mean"]["sequence-oracle"]["J"] > 0.6
    assert report["mean"]["sequence-oracle"]["J"] == 0
    assert report["scored_on"] == {"paper": "windows", "sequence-oracle": "tracks"}
    written = json.loads((output / "metrics.json").read_text())
    assert written["refiners"] == [{"name": "painter", "size": [64, 96]}]
    last = format_table(report).splitlines()[-1]
    assert "paper (windows) J" in last and "sequence-oracle (tracks) J" in last
    assert "refiner painter" in format_table(report) and "refiner" not in format_table(plain)
    assert "painter" in (output / "report.html").read_text()
    with pytest.raises(UserError, match="another refiners"):
        evaluate_dataset("folder", root, protocols=protocols, output=output)


def test_only_refined_rows_of_the_report_name_the_refiner(tmp_path, monkeypatch):
    register(monkeypatch, painter=Painter(nothing))
    MINIATURES["davis2016"](tmp_path / "data")
    evaluate_dataset("davis2016", tmp_path / "data", refine=["painter"], output=tmp_path / "out")
    rows = re.findall("<tr[^>]*>.*?</tr>", (tmp_path / "out" / "report.html").read_text(), re.S)
    paper, refined = (row for row in rows if "this run: motion" in row)
    assert "painter" not in paper and "<td>flow</td>" in paper
    assert "this run: motion + painter" in refined and "<td>flow, RGB</td>" in refined


def test_masks_of_a_folder_are_not_refined(tmp_path, monkeypatch):
    register(monkeypatch, painter=Painter(nothing))
    root = make_dataset(tmp_path / "data")
    with pytest.raises(UserError, match="leave out --refine or --results"):
        evaluate_dataset("folder", root, results=root / "Annotations", refine=["painter"])


def test_a_refiner_by_its_protocol():
    assert isinstance(Painter(nothing), Refiner) and not isinstance(object(), Refiner)
    assert open_refiners([]) == []

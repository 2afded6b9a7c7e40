"""Exports, each read back by a program that shares no code with the exporter."""

import json
import shutil
import tracemalloc
import warnings
import zipfile
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageSequence
from pycocotools import mask as coco

from oclr_jax import cli, pipeline
from oclr_jax.errors import UserError
from oclr_jax.export import FORMATS, export_result, export_results, summarize
from oclr_jax.export.alpha import cut_out
from oclr_jax.export.result import open_result
from oclr_jax.results import encode_rle
from oclr_jax.video.clip import open_clip
from oclr_jax.video.palette import DAVIS_PALETTE
from oclr_jax.video.png import read_ids
from tests.clips import motion_segmenter, moving_clip, write_frames
from tests.video.videos import encode, write_video

FRAMES = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A result with every export, and the video that it was made from."""
    folder = tmp_path_factory.mktemp("source")
    video = write_video(folder / "clip.mp4", moving_clip(FRAMES, height=64, width=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())
        pipeline.segment_to_folder(video, folder / "result", refine=(), export=list(FORMATS))
    return video, folder / "result"


@pytest.fixture
def result(source, tmp_path):
    return shutil.copytree(source[1], tmp_path / "result")


def decoded(rle: dict) -> np.ndarray:
    with warnings.catch_warnings():
        # pycocotools' decoder is older than the numpy that the tests run with.
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(rle).astype(bool)


def visible(result) -> np.ndarray:
    return np.stack([read_ids(path) for path in sorted((result / "masks").iterdir())])


def amodal(result, id: int) -> np.ndarray:
    masks = [result / "amodal" / str(id) / f"{frame:05d}.png" for frame in range(FRAMES)]
    absent = np.zeros((64, 64), bool)
    return np.stack([read_ids(path) > 0 if path.is_file() else absent for path in masks])


def test_coco_is_read_by_pycocotools(source):
    content = json.loads((source[1] / "exports" / "coco.json").read_text())
    (video,), (category,) = content["videos"], content["categories"]
    assert (video["width"], video["height"], video["length"]) == (64, 64, FRAMES)
    assert video["file_names"][3] == "clip/00003.jpg"
    assert [each["track"] for each in content["annotations"]] == [1, 2]
    for annotation in content["annotations"]:
        id = annotation["track"]
        assert annotation["category_id"] == category["id"] and annotation["video_id"] == video["id"]
        for frame in range(FRAMES):
            seen = visible(source[1])[frame] == id
            code, box = annotation["segmentations"][frame], annotation["bboxes"][frame]
            assert (code is None) == (not seen.any())
            if code:
                assert np.array_equal(decoded(code), seen)
                assert annotation["areas"][frame] == seen.sum()
                assert box == list(coco.toBbox(code))
            whole = annotation["amodal_segmentations"][frame]
            assert np.array_equal(whole and decoded(whole), amodal(source[1], id)[frame])
    assert sorted(each["depth_rank"] for each in content["annotations"]) == [0, 1]


def test_youtubevos_is_read_by_zipfile_and_pillow(source):
    with zipfile.ZipFile(source[1] / "exports" / "youtubevos.zip") as archive:
        names = archive.namelist()
        assert names == [f"Annotations/clip/{frame:05d}.png" for frame in range(FRAMES)]
        for name, ids in zip(names, visible(source[1]), strict=True):
            with archive.open(name) as file, Image.open(file) as image:
                assert image.mode == "P"
                assert np.array_equal(image, ids)
                palette = np.array(image.getpalette()).reshape(-1, 3)
                assert np.array_equal(palette[:3], DAVIS_PALETTE[:3])


def test_alpha_is_read_by_ffmpeg(source):
    frames = list(open_clip(source[0]).frames())
    for id in (1, 2):
        with av.open(str(source[1] / "exports" / "alpha" / f"{id}.mov")) as container:
            codec = container.streams.video[0].codec_context
            assert (codec.name, codec.profile) == ("prores", "4444")
            pictures = list(container.decode(video=0))
        assert [picture.time for picture in pictures] == [frame / 25 for frame in range(FRAMES)]
        for picture, ids, frame in zip(pictures, visible(source[1]), frames, strict=True):
            rgba = picture.to_ndarray(format="rgba")
            assert np.array_equal(rgba[..., 3], (ids == id) * 255), "alpha is the visible mask"
            error = np.abs(rgba[..., :3].astype(int) - frame)[ids == id]
            assert error.mean() < 2, "inside, it shows the frame"


def test_alpha_keeps_colours_only_near_the_object():
    mask = np.zeros((64, 64), bool)
    mask[:4, :4] = True
    rgba = cut_out(np.full((64, 64, 3), 200, np.uint8), mask)
    assert (rgba[:20, :20, :3] == 200).all()
    assert not rgba[20:].any() and not rgba[:, 20:].any()


def test_gif_is_read_by_pillow(source):
    with Image.open(source[1] / "exports" / "overlay.gif") as image:
        assert image.size == (64, 64) and image.info["loop"] == 0
        pictures = [np.array(each.convert("RGB")) for each in ImageSequence.Iterator(image)]
        spent = [each.info["duration"] for each in ImageSequence.Iterator(image)]
    assert len(pictures) == FRAMES / 2, "every other frame of 25 a second"
    assert spent[0] == 80
    with av.open(str(source[1] / "overlay.mp4")) as container:
        painted = [each.to_ndarray(format="rgb24") for each in container.decode(video=0)]
    for picture, expected in zip(pictures, painted[::2], strict=True):
        assert np.abs(picture.astype(int) - expected).mean() < 20


def test_npz_is_read_by_numpy(source):
    with np.load(source[1] / "exports" / "masks.npz") as arrays:
        assert np.array_equal(arrays["masks"], visible(source[1]))
        assert arrays["masks"].dtype == np.uint8
        for id in (1, 2):
            assert np.array_equal(arrays[f"amodal_{id}"], amodal(source[1], id))
        assert arrays["order"].tolist() == [2, 1]
        assert arrays["stems"].tolist() == [f"{frame:05d}" for frame in range(FRAMES)]
        assert np.allclose(arrays["times"], np.arange(FRAMES) / 25)


def test_an_existing_result_gives_the_same_files(source, result):
    video, original = source
    written = export_result(result, list(FORMATS), result.parent / "out", video)
    assert [path.name for path in written] == [each.file for each in FORMATS.values()]
    for path in [path for path in (original / "exports").rglob("*") if path.is_file()]:
        again = result.parent / "out" / path.relative_to(original / "exports")
        assert again.read_bytes() == path.read_bytes(), path.name


def test_several_results_become_one_submission(source, result, tmp_path):
    record = json.loads((result / "objects.json").read_text())
    record["video"]["name"] = "other"
    (result / "objects.json").write_text(json.dumps(record))
    export_results([source[1], result], ["coco", "youtubevos"], tmp_path / "out")
    content = json.loads((tmp_path / "out" / "coco.json").read_text())
    assert [video["id"] for video in content["videos"]] == [1, 2]
    assert [each["video_id"] for each in content["annotations"]] == [1, 1, 2, 2]
    assert [each["id"] for each in content["annotations"]] == [1, 2, 3, 4]
    names = zipfile.ZipFile(tmp_path / "out" / "youtubevos.zip").namelist()
    assert {name.split("/")[1] for name in names} == {"clip", "other"}


def test_frame_times_and_pixel_aspect_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())
    times = [0, 40, 80, 200, 240, 280]
    frames = moving_clip(6)
    video = encode(tmp_path / "v.mp4", frames, milliseconds=times, aspect=Fraction(4, 3), rate=25)
    pipeline.segment_to_folder(video, tmp_path / "r", refine=(), export=["alpha", "gif"])
    with av.open(str(tmp_path / "r" / "exports" / "alpha" / "1.mov")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        shown = [round(1000 * picture.time) for picture in container.decode(video=0)]
    assert shown == times
    with Image.open(tmp_path / "r" / "exports" / "overlay.gif") as image:
        assert image.size == (128, 64), "the pixels of a GIF are square"


def test_a_result_without_objects_is_exported(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())
    still = write_frames(tmp_path / "still", np.stack([moving_clip(1)[0]] * 3))
    pipeline.segment_to_folder(still, tmp_path / "r", refine=(), export=list(FORMATS))
    content = json.loads((tmp_path / "r" / "exports" / "coco.json").read_text())
    assert content["annotations"] == [] and content["videos"][0]["length"] == 3
    assert "nothing moves" in summarize(tmp_path / "r")


def test_memory_does_not_grow_with_the_length(tmp_path, monkeypatch):
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())
    peaks = []
    for count in (4, 14):
        frames = moving_clip(6)[np.resize([0, 1, 2, 3, 4, 5, 4, 3, 2, 1], count)]
        video = write_frames(tmp_path / f"v{count}", frames)
        pipeline.segment_to_folder(video, tmp_path / f"r{count}", refine=(), overlay=False)
        tracemalloc.start()
        export_result(tmp_path / f"r{count}", list(FORMATS), tmp_path / f"e{count}", video)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 4 * frames[0].nbytes, "10 more frames"


def refused(*arguments, **options) -> str:
    with pytest.raises(UserError) as error:
        export_results(*arguments, **options)
    return str(error.value)


def test_bad_input_is_refused_in_one_sentence(source, result, tmp_path):
    video, original = source
    other = write_frames(tmp_path / "other", moving_clip(FRAMES))
    short = write_video(tmp_path / "short.mp4", moving_clip(FRAMES - 1, height=64, width=64))
    frames = write_frames(tmp_path / "frames", moving_clip(FRAMES, height=64, width=64))
    out = tmp_path / "out"
    assert "no objects.json" in refused([tmp_path], ["coco"])
    assert "no format 'avi'" in refused([original], ["avi"], out)
    assert "once" in refused([original], ["coco", "coco"], out)
    (result / "objects.json").unlink()
    assert "no objects.json" in refused([result], ["coco"])
    shutil.copy(original / "objects.json", result)
    assert "no longer there" in refused([result], ["coco", "gif"], out)
    assert "is not the video" in refused([original], ["gif"], out, other)
    assert "is not the video" in refused([original], ["gif"], out, frames)
    assert "is not the video" in refused([original], ["npz", "alpha"], out, short)
    assert "one video" in refused([original, result], ["npz"], out)
    assert "called clip" in refused([original, result], ["coco"], out)
    assert "--output" in refused([original, result], ["coco"])
    assert "--overwrite" in refused([original], ["coco"])
    assert not out.exists()
    export_result(result, ["coco"], overwrite=True)
    (result / "masks" / "00003.png").unlink()
    assert "not those of objects.json" in refused([result], ["coco"], out)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda record: record.update(schema_version=1), "schema version 1"),
        (lambda record: record.pop("objects"), "has no objects"),
        (lambda record: record["objects"][0].update(id="1"), "id is not of the type int"),
        (lambda record: record["objects"][0].update(id=2), "different numbers"),
        (lambda record: record["objects"][0]["frames"].reverse(), "frames of object 1"),
        (lambda record: record["objects"][0]["frames"].clear(), "frames of object 1"),
        (lambda record: record["video"].update(height=65), "size of the video"),
        (lambda record: record["video"].update(fps=0), "not above 0"),
        (lambda record: record["video"].update(source=1), "source is not of the type str"),
        (lambda record: record["objects"][0]["frames"][2]["modal"].update(counts="52"), "broken"),
        (lambda record: record["objects"][0]["frames"][2]["modal"].update(counts="ü"), "broken"),
    ],
)
def test_a_damaged_record_is_refused(result, tmp_path, change, text):
    record = json.loads((result / "objects.json").read_text())
    change(record)
    (result / "objects.json").write_text(json.dumps(record))
    assert text in refused([result], ["youtubevos"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands(source, result, tmp_path, capsys):
    video, _ = source
    assert cli.main(["export", str(source[1]), "--to", "gif", "--output", str(tmp_path / "p")]) == 0
    capsys.readouterr()
    arguments = ["export", result, "--to", "npz,gif", "--video", video, "--output", tmp_path / "o"]
    assert cli.main([str(argument) for argument in arguments]) == 0
    assert capsys.readouterr().out.split() == [
        str(tmp_path / "o" / "masks.npz"),
        str(tmp_path / "o" / "overlay.gif"),
    ]
    record = json.loads((result / "objects.json").read_text())
    record["objects"][0]["frames"][0]["amodal"] = encode_rle(np.ones((64, 64), bool))
    (result / "objects.json").write_text(json.dumps(record))
    assert cli.main(["inspect", str(result)]) == 0
    text = capsys.readouterr().out
    assert "clip: 64x64, 8 frames, 25 per second" in text
    assert "weights: motion; flow: dis" in text
    rows = [line.split() for line in text.splitlines()]
    (row,) = [row for row in rows if row[:2] == ["1", "1"]]
    seen, whole = visible(result) == 1, amodal(result, 1)
    whole[0] = True
    assert row[6] == f"{seen.sum() / seen.any((1, 2)).sum() / 64**2:.1%}"
    assert row[7] == f"{(whole & ~seen).sum() / whole.sum():.1%}" != "0.0%"
    (result / "objects.json").write_text("{")
    assert cli.main(["inspect", str(result)]) == 2


def test_a_result_gives_its_frames_one_by_one(source):
    frames = list(open_result(source[1]).frames())
    assert [frame.stem for frame in frames] == [f"{number:05d}" for number in range(FRAMES)]
    assert np.array_equal(np.stack([frame.ids for frame in frames]), visible(source[1]))

"""From a video to masks, in memory and as a folder, with a model that sees what moves."""

import dataclasses
import json
import tracemalloc
import warnings
from fractions import Fraction

import av
import jax
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

import oclr_jax
from oclr_jax import pipeline
from oclr_jax.errors import UserError
from oclr_jax.flow import from_settings, gap_flows, resize_flow, stream_flow, write_flo
from oclr_jax.models.oclr import OCLR
from oclr_jax.oclr import predict
from oclr_jax.ops.layering import overlap_order
from oclr_jax.ops.metrics import jaccard
from oclr_jax.pipeline import orders_by_occlusion, segment_to_folder, segment_video
from oclr_jax.refine import self_refiner
from oclr_jax.refine.refiner import REFINERS, open_refiners
from oclr_jax.refine.self_refiner import SelfRefiner
from oclr_jax.video.clip import open_clip
from oclr_jax.video.png import read_ids
from oclr_jax.video.writer import video_writer
from tests.clips import INFO, motion_segmenter, moving_clip, square_masks, texture, write_frames


@pytest.fixture(autouse=True)
def motion_model(monkeypatch):
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: motion_segmenter())


def decode(rle: dict) -> np.ndarray:
    with warnings.catch_warnings():
        # pycocotools' decoder is older than the numpy that the tests run with.
        warnings.simplefilter("ignore", DeprecationWarning)
        return coco.decode(rle).astype(bool)


@pytest.mark.parametrize("frames", [2, 6, 20])
def test_objects_of_a_video_of_any_length(frames):
    """Shorter than a window (6 frames), one window, several: ids hold from first to last."""
    result = segment_video(moving_clip(frames))
    truth = square_masks(frames)
    assert [entry["id"] for entry in result.record["objects"]] == [1, 2]
    assert result.order == [2, 1], "what goes left is in front"
    for id in (1, 2):
        assert jaccard(result.masks == id, truth == id).min() > 0.5
        assert jaccard(result.amodal[id], truth == id).min() > 0.5
    assert result.flow.shape == (frames, 32, 48, 4)
    assert result.record["video"]["moves"]


def test_one_compiled_program_serves_every_video(monkeypatch):
    shapes = set()
    model = motion_segmenter()

    def answer(params, flow):
        shapes.add(flow.shape)
        return model.predict(params, flow)

    segmenter = predict.Segmenter(None, INFO, answer)
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: segmenter)
    for size in ((2, 64, 96), (7, 96, 48), (15, 64, 96)):
        segment_video(moving_clip(*size))
    assert shapes == {(1, 6, 32, 48, 4)}
    assert predict.make_predict_fn(OCLR(INFO.model)) is predict.make_predict_fn(OCLR(INFO.model)), (
        "the compiled function is kept"
    )


@pytest.mark.slow
def test_layers_are_composed_by_what_the_weights_say():
    flow = np.random.default_rng(0).normal(size=(1, 2, 32, 48, 4)).astype(np.float32)
    model = OCLR(INFO.model)
    params = jax.jit(model.init)(jax.random.key(0), flow)["params"]
    params["unet_decoder"]["logits"]["bias"] = np.zeros(3, np.float32)  # masks of half the pixels
    output = jax.jit(model.apply)({"params": params}, flow)
    overlap = overlap_order(output.amodal_logits)
    assert np.abs(overlap).max() > 0.1
    for order_from, expected in (("head", output.order), ("overlap", overlap)):
        config = dataclasses.replace(INFO.model, order_from=order_from)
        _, order = predict.make_predict_fn(OCLR(config))(params, flow)
        np.testing.assert_allclose(order, expected, atol=1e-4)


def test_modal_masks_are_amodal_masks_cut_by_depth():
    result = segment_video(moving_clip(12, height=64, width=64))  # the squares cross columns
    front, back = (result.amodal[id] for id in result.order)
    assert np.array_equal(result.masks == result.order[0], front)
    assert np.array_equal(result.masks == result.order[1], back & ~front)


def test_a_still_video_has_no_objects_and_the_model_is_not_asked(monkeypatch):
    rng = np.random.default_rng(0)
    still = np.stack([texture(0, 64, 96)] * 8)
    noisy = np.clip(still + rng.normal(0, 2, still.shape), 0, 255).astype(np.uint8)
    monkeypatch.setattr(pipeline, "load_segmenter", lambda *_: never_asked())
    for video in (still, noisy):
        result = segment_video(video)
        assert not result.masks.any() and not result.record["objects"]
        assert not result.record["video"]["moves"]


def never_asked() -> predict.Segmenter:
    def answer(params, flow):
        raise AssertionError("the model was asked about a still window")

    return predict.Segmenter(None, INFO, answer)


def test_a_cut_starts_new_ids():
    first, second = moving_clip(7), 255 - moving_clip(9, seed=10)
    result = segment_video(np.concatenate([first, second]))
    assert result.record["video"]["shots"] == [[0, 6], [7, 15]]
    spans = [(o["first_frame"], o["last_frame"]) for o in result.record["objects"]]
    assert spans == [(0, 6), (0, 6), (7, 15), (7, 15)]


def test_a_shot_of_one_frame_is_passed_over():
    other = 255 - texture(50, 64, 96)[None]
    result = segment_video(np.concatenate([moving_clip(7), other, 255 - moving_clip(7, seed=9)]))
    assert result.record["video"]["shots"] == [[0, 6], [7, 7], [8, 14]]
    assert not result.masks[7].any()
    assert [o["first_frame"] for o in result.record["objects"]] == [0, 0, 8, 8]


def test_streamed_flow_is_that_of_the_whole_clip():
    frames = moving_clip(5)
    estimator = from_settings(INFO.flow)
    clip = open_clip(frames)
    streamed = list(stream_flow(clip, estimator, (1, -1), (32, 48)))
    assert [flow.frame for flow in streamed] == [0, 1, 2, 3, 4]
    whole = resize_flow(gap_flows(frames, (1, -1), estimator), 32, 48)
    assert np.array_equal(np.stack([flow.flow for flow in streamed]), whole)


def test_flow_does_not_cross_a_cut():
    first, second = moving_clip(4), 255 - moving_clip(4, seed=10)
    estimator = from_settings(INFO.flow)
    clip = open_clip(np.concatenate([first, second]))
    streamed = [flow.flow for flow in stream_flow(clip, estimator, (1, -1), (32, 48))]
    for part, video in ((streamed[:4], first), (streamed[4:], second)):
        assert np.array_equal(part, resize_flow(gap_flows(video, (1, -1), estimator), 32, 48))


def test_a_folder_of_flow_gives_what_the_estimator_gives(tmp_path):
    """Also at a cut, which the folder's flow crosses."""
    frames = np.concatenate([moving_clip(8), 255 - moving_clip(4, seed=10)])
    for gap in (1, -1):
        flows = gap_flows(frames, (gap, -gap), from_settings(INFO.flow))[..., :2]
        for number, flow in enumerate(flows):
            if 0 <= number + gap < len(frames):
                write_flo(tmp_path / f"Flows_gap{gap}" / f"{number:05d}.flo", flow)
    expected, result = segment_video(frames), segment_video(frames, flow=tmp_path)
    assert len(result.record["video"]["shots"]) == 2
    assert np.array_equal(result.flow, expected.flow)
    assert np.array_equal(result.masks, expected.masks)
    assert result.record["settings"]["flow"] == "folder"


def test_the_folder_of_results(tmp_path):
    frames = moving_clip(9)
    source, output = write_frames(tmp_path / "a clip, très bien", frames), tmp_path / "new" / "out"
    record = segment_to_folder(source, output)
    expected = segment_video(frames)
    stems = [str(number) for number in range(9)]
    masks = np.stack([read_ids(output / "masks" / f"{stem}.png") for stem in stems])
    assert np.array_equal(masks, expected.masks)
    with Image.open(output / "masks" / "3.png") as image:
        assert image.mode == "P" and image.getpalette()[3:6] == [128, 0, 0]
    for id, amodal in expected.amodal.items():
        for frame, stem in enumerate(stems):
            path = output / "amodal" / str(id) / f"{stem}.png"
            assert path.is_file() == amodal[frame].any()
            if path.is_file():
                assert np.array_equal(read_ids(path), amodal[frame] * np.uint8(255))
    assert json.loads((output / "objects.json").read_text(encoding="utf-8")) == record
    overlay = open_clip(output / "overlay.mp4")
    assert (overlay.count, overlay.fps) == (9, 24)
    assert sorted(path.name for path in output.iterdir()) == sorted(
        ["masks", "amodal", "objects.json", "overlay.mp4"]
    )
    assert sorted(path.name for path in output.parent.iterdir()) == ["out"]


def test_amodal_masks_are_written_where_the_object_is(tmp_path):
    """Objects of one shot have no files in the other."""
    frames = np.concatenate([moving_clip(7), 255 - moving_clip(9, seed=10)])
    record = segment_to_folder(write_frames(tmp_path / "frames", frames), tmp_path / "out")
    files = {
        folder.name: sorted(int(path.stem) for path in folder.iterdir())
        for folder in (tmp_path / "out" / "amodal").iterdir()
    }
    assert files == {
        **dict.fromkeys("12", list(range(7))),
        **dict.fromkeys("34", list(range(7, 16))),
    }
    for entry in record["objects"]:
        assert [found["frame"] for found in entry["frames"]] == files[str(entry["id"])]


def test_the_record_describes_the_masks(tmp_path):
    frames = moving_clip(7)
    result = segment_video(write_frames(tmp_path / "frames", frames))
    record = result.record
    assert record["schema_version"] == 2
    assert record["video"]["name"] == "frames" and record["video"]["frames"] == 7
    assert record["settings"]["weights"] == "motion"
    assert record["settings"]["flow"] == INFO.flow
    for entry in record["objects"]:
        assert entry["depth_rank"] == result.order.index(entry["id"])
        assert (entry["first_frame"], entry["last_frame"]) == (0, 6)
        for found in entry["frames"]:
            seen = result.masks[found["frame"]] == entry["id"]
            amodal = result.amodal[entry["id"]][found["frame"]]
            assert found["stem"] == str(found["frame"])
            assert np.array_equal(decode(found["modal"]), seen)
            assert np.array_equal(decode(found["amodal"]), amodal)
            assert found["area"] == seen.sum()
            assert found["score"] == 0.9
            rows, columns = np.nonzero(seen)
            x, y = columns.min(), rows.min()
            box = [x, y, columns.max() - x + 1, rows.max() - y + 1]
            assert found["box"] == [int(number) for number in box]


def test_same_input_same_bytes(tmp_path):
    source = write_frames(tmp_path / "frames", moving_clip(8))
    for name in ("one", "two"):
        segment_to_folder(source, tmp_path / name)
    files = sorted(path for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 8 * 3 + 2
    for file in files:
        twin = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == twin.read_bytes(), file


def test_video_files_keep_their_frame_rate(tmp_path):
    frames, path = moving_clip(8), tmp_path / "clip.mp4"
    with video_writer(path, Fraction(30000, 1001), *frames.shape[1:3]) as add_frame:
        for frame in frames:
            add_frame(frame)
    record = segment_to_folder(path, tmp_path / "out")
    assert open_clip(tmp_path / "out" / "overlay.mp4").fps == Fraction(30000, 1001)
    assert [path.name for path in sorted((tmp_path / "out" / "masks").iterdir())] == [
        f"{number:05d}.png" for number in range(8)
    ]
    assert len(record["objects"]) == 2


def test_without_overlay(tmp_path):
    source = write_frames(tmp_path / "frames", moving_clip(4))
    segment_to_folder(source, tmp_path / "out", overlay=False)
    assert not (tmp_path / "out" / "overlay.mp4").exists()
    assert len(list((tmp_path / "out" / "masks").iterdir())) == 4


def test_overwrite_replaces_results_and_nothing_else(tmp_path):
    output = tmp_path / "out"
    segment_to_folder(write_frames(tmp_path / "long", moving_clip(8)), output)
    (output / "notes.txt").write_text("mine")
    short = write_frames(tmp_path / "short", moving_clip(3))
    with pytest.raises(UserError, match="already has results.*--overwrite"):
        segment_to_folder(short, output)
    assert len(list((output / "masks").iterdir())) == 8
    segment_to_folder(short, output, overlay=False, overwrite=True)
    assert len(list((output / "masks").iterdir())) == 3
    assert (output / "notes.txt").read_text() == "mine"
    assert not (output / "overlay.mp4").exists(), "an old overlay beside new masks would mislead"


class KeepsNothing:
    """A refiner that reads all it is offered, as one that holds a frame at a time does."""

    name = "keeps nothing"

    def settings(self):
        return {}

    def __call__(self, video, tracks):
        for frame, _ in enumerate(video.frames("reading")):
            assert video.flow(frame) is not None
            for track in tracks:
                if frame in track.amodal_probability:
                    soft = track.amodal_probability[frame].decode()
                    track.modal_probability[frame] = video.store_probability(soft)
        return tracks


@pytest.mark.parametrize(
    "refine", [[], ["keeps nothing"], pytest.param(["self"], marks=pytest.mark.slow)]
)
def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path, monkeypatch, refine):
    monkeypatch.setitem(REFINERS, "keeps nothing", KeepsNothing)
    monkeypatch.setitem(REFINERS, "self", lambda: SelfRefiner(steps=5))
    monkeypatch.setattr(self_refiner, "PART_FRAMES", 8)
    monkeypatch.setattr(self_refiner, "TRAINED_PIXELS", 4096)
    frames = moving_clip(20).repeat(3, axis=1).repeat(3, axis=2)
    there_and_back = np.concatenate([frames, frames[-2:0:-1]])
    peaks = {}
    # The first run is not measured: it fills caches that stay.
    for length in (20, 20, 60):
        video = tmp_path / f"{length}.mp4"
        with video_writer(video, 24, 192, 288) as add_frame:
            for number in range(length):
                add_frame(there_and_back[number % len(there_and_back)])
        tracemalloc.start()
        record = segment_to_folder(video, tmp_path / str(length), refine=refine, overwrite=True)
        peaks[length] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(record["objects"]) >= 2
    # Of 40 frames more, each 160 KiB and each mask 54 KiB, only the codes may add up; how far the
    # reader is ahead differs from run to run by a frame or two.
    assert peaks[60] - peaks[20] < 40 * 27 * 1024


def test_python_api_is_lazy_and_checks_arrays():
    assert oclr_jax.segment_video is segment_video
    good = moving_clip(3)
    for bad in (good[:1], good[:, :12]):
        with pytest.raises(UserError):
            segment_video(bad)


@pytest.mark.parametrize("size", [(96, 48), (17, 200)])
def test_portrait_and_narrow_frames(size):
    result = segment_video(moving_clip(4, *size))
    assert result.masks.shape == (4, *size)


def test_4k_frames(tmp_path):
    small = moving_clip(2, 72, 128)
    large = small.repeat(30, axis=1).repeat(30, axis=2)
    record = segment_to_folder(write_frames(tmp_path / "4k", large, ".jpg"), tmp_path / "out")
    assert read_ids(tmp_path / "out" / "masks" / "1.png").shape == (2160, 3840)
    assert len(record["objects"]) == 2


@pytest.mark.parametrize("kind", ["grey", "alpha", "sixteen bits"])
def test_unusual_pictures(tmp_path, kind):
    folder = tmp_path / "frames"
    folder.mkdir()
    for number, frame in enumerate(moving_clip(4)):
        picture = {
            "grey": lambda frame: Image.fromarray(frame).convert("L"),
            "alpha": lambda frame: Image.fromarray(np.dstack([frame, frame[..., 0]])),
            "sixteen bits": lambda frame: Image.fromarray(frame[..., 0].astype(np.uint16) * 257),
        }[kind](frame)
        picture.save(folder / f"{number}.png")
    assert len(segment_video(folder).record["objects"]) == 2


def test_a_variable_frame_rate(tmp_path):
    path = tmp_path / "uneven.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000)
        stream.height, stream.width, stream.pix_fmt = 64, 96, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for time, frame in zip([0, 40, 100, 110, 250], moving_clip(5), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, "rgb24")
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    record = segment_to_folder(path, tmp_path / "out")
    assert record["video"]["times"] == [0, 0.04, 0.1, 0.11, 0.25]
    assert record["video"]["fps"] == 16
    overlay = open_clip(tmp_path / "out" / "overlay.mp4")
    shown = [float(time) for time in overlay.times]
    np.testing.assert_allclose(shown, record["video"]["times"], atol=1e-4)


def test_repeated_frames_have_the_masks_of_their_twin(tmp_path):
    order = [0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 7, 8, 9]
    frames, truth = moving_clip(10), square_masks(10)[order]
    plain, result = segment_video(frames), segment_video(frames[order])
    assert np.array_equal(result.masks, plain.masks[order])
    assert np.array_equal(result.flow, plain.flow[order])
    for id in (1, 2):
        assert np.array_equal(result.amodal[id], plain.amodal[id][order])
        assert jaccard(result.masks == id, truth == id).min() > 0.5
    assert result.record["video"]["repeats"] == [[4, 3], [9, 8], [10, 8]]
    record = segment_to_folder(write_frames(tmp_path / "in", frames[order]), tmp_path / "out")
    assert record["objects"] == result.record["objects"] or len(record["objects"]) == 2
    masks = [read_ids(tmp_path / "out" / "masks" / f"{i}.png") for i in range(len(order))]
    assert np.array_equal(np.stack(masks), result.masks)
    assert open_clip(tmp_path / "out" / "overlay.mp4").count == 13


def test_a_video_of_one_picture_has_no_objects():
    result = segment_video(np.repeat(moving_clip(1), 5, axis=0))
    assert not result.masks.any() and not result.record["video"]["moves"]
    assert result.flow.shape[0] == 5


@pytest.mark.parametrize(
    "order_from, refiners, expected",
    [
        ("overlap", ["self"], True),
        ("overlap", ["appearance"], True),
        ("overlap", ["select"], False),
        ("overlap", [], False),
        ("head", ["self"], False),
    ],
)
def test_refined_masks_give_the_depth_order_where_the_model_has_none(
    order_from, refiners, expected
):
    model = dataclasses.replace(INFO.model, order_from=order_from)
    segmenter = predict.Segmenter(None, dataclasses.replace(INFO, model=model), never_asked)
    refiners = open_refiners(refiners)
    assert orders_by_occlusion(segmenter, refiners) is expected
    recorded = pipeline.describe_settings(segmenter, None, refiners)["order_from"]
    assert recorded == ("occlusion" if expected else order_from)

"""Segments a video, or a generated clip, and draws a contact sheet of the result.

Run by `launch/demo.sh`. Results go to `demo_output/<name of the video>/` in the checkout.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from data_pipelines.synthetic import Sample, SceneConfig, render, sample_scene
from oclr_jax import cli
from oclr_jax.flow import from_settings
from oclr_jax.ops.metrics import assign, jaccard
from oclr_jax.results import SegmentationRecord
from oclr_jax.show.contact_sheet import contact_sheet
from oclr_jax.show.grid import evenly_spaced
from oclr_jax.video.png import read_ids, write_png
from oclr_jax.video.reader import open_video
from oclr_jax.video.resize import resize_ids
from oclr_jax.video.writer import video_writer

OUTPUT = Path(__file__).resolve().parents[1] / "demo_output"
# Two objects, one of them partly behind the other.
CLIP_SEED, CLIP_OBJECTS = 8, 2
CLIP = SceneConfig(frames=60, render_height=480, render_width=854)
SHEET_FRAMES = 6


def main() -> int:
    parser = argparse.ArgumentParser("demo.sh", description="Segment a video and look at it.")
    parser.add_argument(
        "video",
        metavar="VIDEO_OR_FOLDER",
        nargs="?",
        help="video file or folder of jpg or png frames (default: a rendered clip)",
    )
    video = parser.parse_args().video
    sample = None
    if video is None:
        print("Rendering a clip ...")
        video = OUTPUT / "clip.mp4"
        sample = render_clip(video)
    output = OUTPUT / Path(video).resolve().stem
    status = cli.main(["segment", str(video), str(output), "--overwrite"])
    if status:
        return status
    record = json.loads((output / "objects.json").read_text(encoding="utf-8"))
    if sample is not None:
        print_scores(output, record, sample)
    sheet = output / "contact_sheet.png"
    write_png(sheet, draw_sheet(video, output, record))
    print(f"overlay video: {output / 'overlay.mp4'}")
    print(f"contact sheet: {sheet}")
    return 0


def render_clip(path: Path, seed: int = CLIP_SEED) -> Sample:
    """Renders a clip of two objects to a video file; returns it with its ground truth."""
    sample = render(sample_scene(np.random.default_rng(seed), CLIP, CLIP_OBJECTS))
    with video_writer(path, 24, CLIP.render_height, CLIP.render_width) as write:
        for frame in sample["video"]:
            write(frame)
    return sample


def read_modal(output: Path, stems: list[str]) -> UInt8[np.ndarray, "t h w"]:
    return np.stack([read_ids(output / "masks" / f"{stem}.png") for stem in stems])


def read_amodal(
    output: Path, record: SegmentationRecord, stems: list[str]
) -> Bool[np.ndarray, "t h w k"]:
    """Reads the amodal masks of all objects of a result, in the order of objects.json.

    A frame in which an object is absent has no file; its mask is empty.
    """
    shape = (len(stems), record["video"]["height"], record["video"]["width"])
    masks = np.zeros((*shape, len(record["objects"])), bool)
    for layer, entry in enumerate(record["objects"]):
        for frame, stem in enumerate(stems):
            path = output / "amodal" / str(entry["id"]) / f"{stem}.png"
            if path.is_file():
                masks[frame, ..., layer] = read_ids(path) > 0
    return masks


def print_scores(output: Path, record: SegmentationRecord, sample: Sample) -> None:
    """Prints J of the clip's objects over the whole clip, matched one to one on modal J."""
    stems = [f"{frame:05d}" for frame in range(record["video"]["frames"])]
    found, found_amodal = read_modal(output, stems), read_amodal(output, record, stems)
    height, width = record["video"]["height"], record["video"]["width"]
    ids = [entry["id"] for entry in record["objects"]]
    objects = range(int((sample["layer_order"] >= 0).sum()))

    def enlarged(masks: np.ndarray) -> Bool[np.ndarray, "t h w"]:
        return np.stack([resize_ids(m.astype(np.uint8), height, width) for m in masks]) > 0

    modal = [enlarged(sample["segmentations"] == layer + 1) for layer in objects]
    j = np.array([[jaccard(found == id, truth).mean() for id in ids] for truth in modal])
    matched = dict(assign(j.reshape(len(modal), len(ids))))
    print("J against the clip's ground truth, objects front to back:")
    for layer in objects:
        if layer not in matched:
            print(f"  object {layer}: not found, J 0")
            continue
        column = matched[layer]
        whole = jaccard(found_amodal[..., column], enlarged(sample["amodal"][..., layer])).mean()
        print(
            f"  object {layer}: modal {j[layer, column]:.3f}, amodal {whole:.3f} (id {ids[column]},"
            f" depth rank {record['objects'][column]['depth_rank']})"
        )


def draw_sheet(
    video: str | Path,
    output: Path,
    record: SegmentationRecord,
    columns: int = SHEET_FRAMES,
    tile_height: int = 160,
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the contact sheet of a result: evenly spaced frames, each with its flow and masks."""
    last = record["video"]["frames"] - 1
    chosen = evenly_spaced(last, columns)
    source = open_video(video)
    wanted = {*chosen, *(frame + 1 for frame in chosen)}
    images = {frame: image for frame, image in enumerate(source) if frame in wanted}
    first = np.stack([images[frame] for frame in chosen])
    second = np.stack([images[frame + 1] for frame in chosen])
    stems = [source.stem(frame) for frame in chosen]
    return contact_sheet(
        first,
        from_settings(record["settings"]["flow"])(first, second),
        read_modal(output, stems),
        read_amodal(output, record, stems),
        [entry["id"] for entry in record["objects"]],
        [entry["depth_rank"] for entry in record["objects"]],
        stems,
        tile_height,
    )


if __name__ == "__main__":
    sys.exit(main())

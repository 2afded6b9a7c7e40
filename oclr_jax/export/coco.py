"""COCO-VIS: the JSON of video instance segmentation, as YouTube-VIS has it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import oclr_jax
from oclr_jax.export.result import Result
from oclr_jax.files import replacing
from oclr_jax.results import ObjectEntry

_CATEGORY = 1  # of all objects, which have no class


def write_coco(path: Path, results: Sequence[Result]) -> None:
    """Writes one JSON file for all videos.

    It has `videos`, `categories` with the one category `object`, and `annotations`: one for each
    object with `segmentations`, `bboxes` and `areas`, lists over all frames of the video in which
    None is a frame without the object. Masks are COCO's compressed run-length codes. Beyond the
    format, annotations have `amodal_segmentations`, `depth_rank` (0 in front), `score` and `track`,
    the id in masks/.
    """
    videos = [
        {
            "id": number,
            "width": result.width,
            "height": result.height,
            "length": len(result.stems),
            "file_names": [f"{result.name}/{stem}.jpg" for stem in result.stems],
        }
        for number, result in enumerate(results, start=1)
    ]
    head = {
        "info": {"description": "moving objects", "version": oclr_jax.__version__},
        "licenses": [],
        "categories": [{"id": _CATEGORY, "name": "object", "supercategory": "object"}],
        "videos": videos,
    }
    with (
        replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        # The annotations, which are long, are written one by one.
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "annotations": [')
        for number, annotation in enumerate(_annotations(results), start=1):
            separator = ",\n" if number > 1 else "\n"
            file.write(separator + json.dumps({"id": number, **annotation}))
        file.write("\n]}\n")


def _annotations(results: Sequence[Result]) -> Iterator[dict[str, Any]]:
    for number, result in enumerate(results, start=1):
        for entry in result.record["objects"]:
            yield _annotation(number, result, entry)


def _annotation(video: int, result: Result, entry: ObjectEntry) -> dict[str, Any]:
    count = len(result.stems)
    fields: dict[str, list] = {
        name: [None] * count
        for name in ("segmentations", "bboxes", "areas", "amodal_segmentations")
    }
    for found in entry["frames"]:
        frame = found["frame"]
        fields["amodal_segmentations"][frame] = found["amodal"]
        if found["area"]:
            fields["segmentations"][frame] = found["modal"]
            fields["bboxes"][frame] = found["box"]
            fields["areas"][frame] = found["area"]
    return {
        "video_id": video,
        "category_id": _CATEGORY,
        "iscrowd": 0,
        "width": result.width,
        "height": result.height,
        "length": count,
        "track": entry["id"],
        "score": entry["score"],
        "depth_rank": entry["depth_rank"],
        **fields,
    }

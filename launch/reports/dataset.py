"""Writes an HTML report of generated datasets, compared with real videos.

`python launch/reports/dataset.py data/oclr_syn/syn_val/2.0.0 --real DAVIS --output report.html`.
Several datasets, such as two versions, can be compared. Flow statistics are of the estimated flow
to the next frame on the model grid, of rendered and real videos alike.
"""

import argparse
import io
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("dataset", "data"):
    sys.exit(BAD_INPUT)

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from oclr_jax.errors import UserError
from oclr_jax.flow import FlowEstimator, from_settings, resize_flow
from oclr_jax.show.contact_sheet import contact_sheet
from oclr_jax.show.dataset_page import write_dataset_page
from oclr_jax.show.grid import evenly_spaced
from oclr_jax.video.png import read_ids
from oclr_jax.video.reader import open_video
from oclr_jax.video.resize import resize_image

# Name and description of every statistic.
STATISTICS = {
    "size": "area of all objects together, fraction of the frame",
    "flow": "median magnitude of the flow, px",
    "speed": "speed of the objects relative to the background, px",
    "background": "residual of an affine fit to the background's flow, px",
    "articulation": "residual of an affine fit to the objects' flow, px",
    "sharpness": "fraction of the flow's step at outlines within 2 px of them",
    "objects": "number of objects",
    "object size": "area of one object, fraction of the frame",
    "visibility": "visible fraction of an object",
    "overlap": "fraction of an object behind another or behind the occluder",
}
_PERCENTILES = (5, 25, 50, 75, 95)

Values = dict[str, list[float]]


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and writes the report; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("datasets", nargs="+", type=Path, help="folders with dataset_info.json")
    parser.add_argument(
        "--real", type=Path, help="folder of real videos with masks, in the layout of DAVIS2016"
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"))
    parser.add_argument(
        "--sequences", type=int, default=96, help="largest number of sequences of each dataset"
    )
    parser.add_argument(
        "--sheets", type=int, default=6, help="number of contact sheets of the first dataset"
    )
    options = parser.parse_args(arguments)
    return run_command("dataset", lambda: _report(options))


def _report(options: argparse.Namespace) -> None:
    write_report(options.datasets, options.real, options.output, options.sequences, options.sheets)
    print(options.output)


def write_report(
    datasets: list[Path], real: Path | None, output: Path, sequences: int, sheets: int
) -> None:
    """Writes the report as one self-contained HTML file.

    Args:
      datasets: TFDS folders of `oclr_syn`; contact sheets show the first.
      real: a folder with `JPEGImages/480p` and `Annotations/480p`, or None.
      output: the HTML file.
      sequences: largest number of sequences of each dataset, evenly spaced.
      sheets: number of contact sheets.

    Raises:
      UserError: a folder has another layout.
    """
    opened = [_open(folder) for folder in datasets]
    table = {}
    for folder, (_, source) in zip(datasets, opened, strict=True):
        name = "/".join(folder.resolve().parts[-2:])
        table[name] = _of_dataset(source, sequences, name)
    if real is not None:
        table["real"] = _of_videos(real, opened[0][0].info.metadata)
    known = [name for name in STATISTICS if any(values[name] for values in table.values())]
    histograms = {f"Distribution of {name}": _histogram(name, table) for name in known}
    _, source = opened[0]
    examples = [source[index] for index in evenly_spaced(len(source), sheets)]
    clips = {each["metadata"]["video_name"].decode(): _png(_sheet(each)) for each in examples}
    title = f"oclr_syn/{'/'.join(datasets[0].resolve().parts[-2:])}"
    head, rows = _percentiles(table)
    write_dataset_page(output, title, head, rows, histograms, clips)


def _open(folder: Path) -> tuple[tfds.core.DatasetBuilder, Any]:
    try:
        builder = tfds.builder_from_directory(folder)
        return builder, builder.as_data_source(next(iter(builder.info.splits)))
    except Exception as error:  # TFDS raises a different type for each missing or damaged file
        raise UserError(
            f"{folder} is not a dataset that launch/generate.py made; name the folder with its "
            "dataset_info.json."
        ) from error


def _of_dataset(source: Any, sequences: int, name: str) -> Values:
    values: Values = defaultdict(list)
    for index in tqdm(evenly_spaced(len(source), sequences), name, disable=None):
        example = source[index]
        seen, amodal = example["video"]["segmentations"][..., 0], example["amodal_segmentations"]
        values["objects"].append(int((example["layer_order"] >= 0).sum()))
        for t in range(0, len(seen) - 1, 3):
            flow = example["estimated_forward_flow"][t].astype(np.float32)
            _add(values, frame_statistics(flow, seen[t] > 0))
            for layer in range(values["objects"][-1]):
                if amodal[t, ..., layer].any():
                    values["object size"].append(float(amodal[t, ..., layer].mean()))
                    values["visibility"].append(float(example["visibility"][t, layer]))
                    values["overlap"].append(1 - values["visibility"][-1])
    return values


def _of_videos(real: Path, metadata: dict[str, Any]) -> Values:
    """Statistics of real videos, with flow of the dataset's estimator."""
    values: Values = defaultdict(list)
    estimator = from_settings(dict(metadata["flow"]))
    height, width = metadata["scene"]["height"], metadata["scene"]["width"]
    for flow, mask in _real_pairs(real, estimator):
        flow = resize_flow(flow, height, width)
        _add(values, frame_statistics(flow, resize_image(mask, height, width) >= 0.5))
    return values


def _real_pairs(real: Path, estimator: FlowEstimator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    images = real / "JPEGImages" / "480p"
    if not images.is_dir():
        raise UserError(f"There is no folder {images}; name one in the layout of DAVIS2016.")
    for folder in tqdm(sorted(images.iterdir()), "real videos", disable=None):
        video = open_video(folder)
        size = estimator.working_size(video.height, video.width)
        frames = [resize_image(frame, *size) for frame in video]
        for t in range(0, len(frames) - 1, 3):
            ids = read_ids(real / "Annotations" / "480p" / folder.name / f"{video.stem(t)}.png")
            yield estimator(frames[t][None], frames[t + 1][None])[0], (ids > 0).astype(np.float32)


def _add(values: Values, one: dict[str, float]) -> None:
    for name, value in one.items():
        values[name].append(value)


def frame_statistics(flow: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """Statistics of one frame from its flow [h w 2], px, and the mask of its objects [h w].

    Statistics of objects and outlines are missing if there are none.
    """
    found = {"flow": float(np.median(np.linalg.norm(flow, axis=-1))), "size": float(mask.mean())}
    if not 0.002 < found["size"] < 0.9:
        return found
    background = flow - _affine(flow, ~mask)
    inside = flow - _affine(flow, mask)
    found["background"] = float(np.mean(np.linalg.norm(background, axis=-1)[~mask]))
    found["articulation"] = float(np.mean(np.linalg.norm(inside, axis=-1)[mask]))
    found["speed"] = float(np.linalg.norm(background[mask].mean(0)))
    # Signed distance to the outline, px: positive inside.
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, 3)
    distance -= cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    near = _step(background, distance, 0, 2)
    far = _step(background, distance, 4, 8)
    if near is not None and far is not None and far > 0.5:
        found["sharpness"] = near / far
    return found


def _affine(flow: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The least-squares affine motion of the flow where `where`, at all pixels."""
    height, width = where.shape
    y, x = np.mgrid[:height, :width] / height
    basis = np.stack([np.ones_like(x), x, y], -1)
    return basis @ np.linalg.lstsq(basis[where], flow[where], rcond=None)[0]


def _step(flow: np.ndarray, distance: np.ndarray, low: int, high: int) -> float | None:
    inside, outside = (flow[(low < side) & (side <= high)] for side in (distance, -distance))
    if len(inside) < 20 or len(outside) < 20:
        return None
    return float(np.linalg.norm(inside.mean(0) - outside.mean(0)))


def _percentiles(table: dict[str, Values]) -> tuple[list[str], list[list[str]]]:
    """Head and rows: percentiles of every statistic; for real videos, the fraction of values that
    the first dataset covers."""
    head = ["statistic", "data", *(f"{p} %" for p in _PERCENTILES), "within 1 to 99 % of the first"]
    rows = []
    first = next(iter(table.values()))
    for name, doc in STATISTICS.items():
        for data, values in table.items():
            if not values[name]:
                continue
            numbers = [f"{x:.3g}" for x in np.percentile(values[name], _PERCENTILES)]
            covered = ""
            if data == "real" and first[name]:
                low, high = np.percentile(first[name], [1, 99])
                share = np.mean([low <= value <= high for value in values[name]])
                covered = f"{100 * share:.0f} %"
            rows.append([f"{name}: {doc}", data, *numbers, covered])
    return head, rows


def _histogram(name: str, table: dict[str, Values]) -> bytes:
    figure, axes = plt.subplots(figsize=(7, 2.2))
    shown = {data: values[name] for data, values in table.items() if values[name]}
    top = max(np.percentile(values, 98) for values in shown.values())
    bins = np.linspace(0, max(top, 1e-3), 40)
    for data, values in shown.items():
        axes.hist(np.clip(values, 0, top), bins, density=True, histtype="step", label=data)
    axes.set_title(f"{name}: {STATISTICS[name]}", fontsize=9)
    axes.set_yticks([])
    axes.legend(fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    plt.close(figure)
    return buffer.getvalue()


def _sheet(example: dict[str, Any]) -> np.ndarray:
    frames = np.stack(example["video"]["frames"])
    chosen = evenly_spaced(len(frames), 6)
    objects = int((example["layer_order"] >= 0).sum())
    return contact_sheet(
        frames[chosen],
        example["forward_flow"][chosen].astype(np.float32),
        example["video"]["segmentations"][chosen, ..., 0],
        example["amodal_segmentations"][chosen, ..., :objects] > 0,
        list(range(1, objects + 1)),
        list(range(objects)),
        [f"{t:05d}" for t in chosen],
    )


def _png(image: np.ndarray) -> bytes:
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return data.tobytes()


if __name__ == "__main__":
    sys.exit(main())

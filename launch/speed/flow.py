"""Time and quality of the flow estimator at several working resolutions and presets.

On a folder in the layout of DAVIS (JPEGImages/480p, Annotations/480p), per setting:
- CPU time per pair of frames on one thread, without resizing, median;
- warp error: mean absolute grey-level difference between a frame and the next one, warped by the
  flow, at 240x427;
- baseline J: J of a segmentation without learning (residual of the flow to a RANSAC homography,
  Otsu threshold, largest component), mean over sequences;
- edge AUC: how well that residual separates object from background within 4 px of the object
  boundary on the model grid, 128x224.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
from scipy.stats import rankdata
from tqdm import tqdm

from oclr_jax.flow import DIS, resize_flow
from oclr_jax.ops.flow_metrics import photometric_error
from oclr_jax.video.png import read_ids
from oclr_jax.video.reader import open_video
from oclr_jax.video.resize import resize_ids, resize_image

MODEL_GRID = (128, 224)
WARP_GRID = (240, 427)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `flow`."""
    parser.add_argument("--data", type=Path, required=True, help="folder in the layout of DAVIS")
    parser.add_argument("--sizes", nargs="+", default=["128x224", "192x336", "256x448", "480x854"])
    parser.add_argument("--presets", nargs="+", default=["fast", "medium", "fine"])
    parser.add_argument("--every", type=int, default=4, help="use every n-th pair of frames")


def main(options: argparse.Namespace) -> None:
    """Prints one row per size and preset."""
    cv2.setNumThreads(1)
    pairs = _read_pairs(options.data, options.every)
    print("| grid | preset | ms per pair | warp error | baseline J | edge AUC |")
    print("|---|---|---|---|---|---|")
    for size in options.sizes:
        height, width = map(int, size.split("x"))
        for preset in options.presets:
            cv2.setRNGSeed(0)
            values = _measure(DIS(height, width, preset), pairs)
            print("| {} | {} | {:.1f} | {:.2f} | {:.3f} | {:.3f} |".format(size, preset, *values))


def _read_pairs(data: Path, every: int) -> dict[str, list[tuple[np.ndarray, ...]]]:
    """(frame, next frame, mask of the frame), by sequence."""
    pairs = {}
    for folder in tqdm(sorted((data / "JPEGImages" / "480p").iterdir()), "reading", disable=None):
        video = open_video(folder)
        frames = list(video)
        annotations = data / "Annotations" / "480p" / folder.name
        pairs[folder.name] = [
            (frames[i], frames[i + 1], read_ids(annotations / f"{video.stem(i)}.png") > 0)
            for i in range(0, len(frames) - 1, every)
        ]
    return pairs


def _measure(estimator: DIS, pairs: dict) -> tuple[float, float, float, float]:
    times, errors, js, aucs = [], [], [], []
    for triples in pairs.values():
        rows = []
        for first, second, mask in triples:
            small = [resize_image(x, estimator.height, estimator.width) for x in (first, second)]
            start = time.process_time()
            flow = estimator(small[0][None], small[1][None])[0]
            times.append(time.process_time() - start)
            j = _jaccard(_segment(_residual(flow)), mask)
            rows.append((_warp_error(flow, first, second), j, _edge_auc(flow, mask)))
        error, j, auc = np.nanmean(rows, axis=0)
        errors.append(error)
        js.append(j)
        aucs.append(auc)
    return 1e3 * np.median(times), np.mean(errors), np.mean(js), np.mean(aucs)


def _residual(flow: np.ndarray) -> np.ndarray:
    """Length of the flow residual after a RANSAC homography."""
    height, width, _ = flow.shape
    start = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    step = max(1, height // 32)
    chosen = [points[::step, ::step].reshape(-1, 2) for points in (start, start + flow)]
    # The tolerance is one pixel at 256 rows.
    fit, _ = cv2.findHomography(*chosen, cv2.RANSAC, max(0.5, height / 256), maxIters=500)
    fit = np.eye(3) if fit is None else fit
    camera = cv2.perspectiveTransform(start.reshape(1, -1, 2), fit).reshape(height, width, 2)
    return np.linalg.norm(start + flow - camera, axis=-1)


def _segment(residual: np.ndarray) -> np.ndarray:
    levels = np.clip(residual / np.percentile(residual, 99.5) * 255, 0, 255).astype(np.uint8)
    _, moving = cv2.threshold(levels, 0, 1, cv2.THRESH_OTSU)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(moving)
    areas = stats[1:, cv2.CC_STAT_AREA]
    return labels == 1 + np.argmax(areas) if len(areas) else moving > 0


def _jaccard(found: np.ndarray, mask: np.ndarray) -> float:
    found = resize_ids(found.astype(np.uint8), *mask.shape) > 0
    return (mask & found).sum() / max(1, (mask | found).sum())


def _warp_error(flow: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    first, second = (resize_image(frame, *WARP_GRID) for frame in (first, second))
    return photometric_error(first, second, resize_flow(flow, *WARP_GRID))


def _edge_auc(flow: np.ndarray, mask: np.ndarray) -> float:
    residual = _residual(resize_flow(flow, *MODEL_GRID))
    cover = resize_image(mask.astype(np.float32), *MODEL_GRID)
    inside = (cover > 0.5).astype(np.uint8)
    square = np.ones((9, 9), np.uint8)
    band = (cv2.dilate(inside, square) > cv2.erode(inside, square)) & (np.abs(cover - 0.5) > 0.45)
    positive, negative = residual[band & (cover > 0.5)], residual[band & (cover < 0.5)]
    if not (len(positive) and len(negative)):
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)].sum()
    return (ranks / len(positive) - (len(positive) + 1) / 2) / len(negative)

"""End-point error of flow estimators on a generated dataset, where the flow is known.

`python launch/reports/flow_error.py data/oclr_syn/syn_val/2.0.0 --flow dis dis-sharp` prints the
mean error of the flow at gap 1, in pixels of the rendered frames, by region:

  everywhere
  at outlines      within 5 pixels of the outline of an object
  objects          the visible parts of objects
  slow             those that move by less than a pixel against the background, whose motion is
                   taken to be affine
  seconds          of processor time for the flow of a pair in both directions
"""

import argparse
import sys
import time
from collections import defaultdict
from pathlib import Path

# Runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("flow_error", "data"):
    sys.exit(BAD_INPUT)

import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from data_pipelines.loaders.sequences import open_sequences
from oclr_jax.flow.estimator import FlowEstimator
from oclr_jax.flow.gaps import gap_flows
from oclr_jax.flow.resize import resize_flow
from oclr_jax.flow.source import GRAMMAR, open_estimator
from oclr_jax.video.clip import progress
from oclr_jax.video.resize import resize_ids

# Pixels of the rendered frames.
OUTLINE, SLOW = 5.0, 1.0
REGIONS = ("everywhere", "at outlines", "objects", "slow")
FIELDS = {
    "frames": "video/frames",
    "ids": "video/segmentations",
    "exact": "forward_flow",
}


def regions(
    exact: Float32[np.ndarray, "h w 2"], ids: UInt8[np.ndarray, "h w"]
) -> dict[str, Bool[np.ndarray, "h w"]]:
    """The regions of a frame by name; `OUTLINE` and `SLOW` are in pixels of this grid."""
    border = np.zeros(ids.shape, bool)
    border[:-1] |= ids[:-1] != ids[1:]
    border[:, :-1] |= ids[:, :-1] != ids[:, 1:]
    distance = cv2.distanceTransform((~border).astype(np.uint8), cv2.DIST_L2, 5)
    height, width = ids.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    basis = np.stack([np.ones_like(x), x, y], axis=-1)
    behind = ids == 0
    camera = np.zeros_like(exact)
    if behind.any():
        camera = basis @ np.linalg.lstsq(basis[behind], exact[behind], rcond=None)[0]
    slow = np.linalg.norm(exact - camera, axis=-1) < SLOW
    found = np.ones(ids.shape, bool), distance <= OUTLINE, ~behind, slow & ~behind
    return dict(zip(REGIONS, found, strict=True))


def measure(
    directory: str, split: str, estimators: dict[str, FlowEstimator], limit: int, quiet: bool
) -> dict[str, dict[str, float]]:
    """The mean error by estimator and region, and `seconds`."""
    sequences, settings = open_sequences(directory, split, FIELDS)
    scene = settings["scene"]
    height, width = scene["render_height"], scene["render_width"]
    sums: dict[tuple[str, str], np.ndarray] = defaultdict(lambda: np.zeros(2))
    count = min(len(sequences), limit or len(sequences))
    for index in progress(range(count), "measuring", count, quiet):
        stored = sequences[index]
        frames, ids = stored["frames"], stored["ids"][..., 0]
        exact = resize_flow(stored["exact"].astype(np.float32), height, width)
        for name, estimator in estimators.items():
            start = time.process_time()
            flow = gap_flows(frames, (1, -1), estimator)[..., :2]
            spent = time.process_time() - start
            sums[name, "seconds"] += spent, len(frames) - 1
            flow = resize_flow(flow, height, width)
            # The last frame has no next one.
            for found, truth, labels in zip(flow[:-1], exact[:-1], ids[:-1], strict=True):
                labels = resize_ids(labels, height, width)
                error = np.linalg.norm(found - truth, axis=-1)
                for region, inside in regions(truth, labels).items():
                    sums[name, region] += error[inside].sum(), inside.sum()
    return {
        name: {
            column: float(sums[name, column][0] / max(1, sums[name, column][1]))
            for column in (*REGIONS, "seconds")
        }
        for name in estimators
    }


def main(arguments: list[str]) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        epilog=f"Estimators: {GRAMMAR}.",
    )
    parser.add_argument("dataset", help="folder with the dataset's dataset_info.json")
    parser.add_argument("--split", default="validation", help="default: %(default)s")
    parser.add_argument("--flow", nargs="+", default=["dis", "dis-sharp"], metavar="ESTIMATOR")
    parser.add_argument("--limit", type=int, default=0, help="sequences; 0: all (default)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)

    def run() -> None:
        estimators = {name: open_estimator(name) for name in options.flow}
        found = measure(options.dataset, options.split, estimators, options.limit, options.quiet)
        columns = (*REGIONS, "seconds")
        print("| flow | " + " | ".join(columns) + " |")
        print("|---" * (len(columns) + 1) + "|")
        for name, values in found.items():
            print(f"| {name} | " + " | ".join(f"{values[c]:.3f}" for c in columns) + " |")

    return run_command("flow_error", run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

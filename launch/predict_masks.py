"""Stores the masks that a flow model predicts for a dataset, in the dataset's folder.

`python launch/predict_masks.py data/oclr_syn/syn_train/2.0.0` takes a dataset of launch/generate.py
or launch/build_benchmark.py. To resume an interrupted run, repeat the command.
"""

import argparse
import hashlib
import sys
from pathlib import Path

# Runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from oclr_jax.command import BAD_INPUT, lacks_extra, run_command

if lacks_extra("predict_masks", "data"):
    sys.exit(BAD_INPUT)

import numpy as np
from jaxtyping import Float32

from data_pipelines.builders.predicted_masks import open_flow_dataset, write_predicted_masks
from oclr_jax.flow import resize_flow
from oclr_jax.flow.gaps import take_gaps
from oclr_jax.flow.source import warn_of_other_flow
from oclr_jax.oclr.predict import Segmenter, load_segmenter, overlap_of
from oclr_jax.oclr.sequences import predict_sequence
from oclr_jax.types import PRECISIONS
from oclr_jax.weights.file import DEFAULT_WEIGHTS
from oclr_jax.weights.registry import find_weights


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and predicts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="folder with the dataset_info.json of the dataset")
    parser.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        help="name or file of the flow model (default: %(default)s)",
    )
    parser.add_argument("--name", help="name of the masks (default: that of the weights)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="numeric precision (default: float32 on a CPU, bfloat16 on GPU and TPU)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    return run_command(
        "predict_masks",
        lambda: _predict(options),
        interrupted="interrupted; finished files are kept. Run the same command again to resume.",
    )


def _predict(options: argparse.Namespace) -> None:
    flow_settings = open_flow_dataset(options.dataset).metadata["flow"]
    segmenter = load_segmenter(options.weights, options.precision)
    model, name = segmenter.info.model, segmenter.info.name
    warn_of_other_flow(name, segmenter.info.flow, flow_settings)
    gap = flow_settings.get("gap", 1)
    folder, predicted = write_predicted_masks(
        options.dataset,
        options.name or name,
        lambda flow: predict_stored(segmenter, flow, (gap, -gap)),
        (model.height, model.width, model.queries),
        describe(segmenter, find_weights(options.weights)),
        quiet=options.quiet,
    )
    print(f"{folder} {'is ready' if predicted else 'exists; nothing to do'}")


def describe(segmenter: Segmenter, weights: Path) -> dict[str, object]:
    """What the predictions depend on besides the dataset, as JSON values."""
    model = segmenter.info.model
    return {
        "weights": {
            "name": segmenter.info.name,
            "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        },
        "window": {"frames": model.frames, "overlap": overlap_of(model)},
        "precision": segmenter.precision,
    }


def predict_stored(
    segmenter: Segmenter, flow: Float32[np.ndarray, "t h w 4"], gaps: tuple[int, int]
) -> tuple[Float32[np.ndarray, "t H W k"], Float32[np.ndarray, "t k"]]:
    """Amodal probabilities and order of a sequence from its stored flow; see `predict_sequence`.

    Args:
      segmenter: the model.
      flow: (u, v) at `gaps`, in pixels of the grid on which it is stored.
      gaps: of the stored flow.

    Raises:
      UserError: the model needs flow at another gap.
    """
    model = segmenter.info.model
    flow = take_gaps(flow, gaps, model.gaps)
    return predict_sequence(segmenter, resize_flow(flow, model.height, model.width))


if __name__ == "__main__":
    sys.exit(main())

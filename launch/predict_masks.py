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

import numpy as np
from jaxtyping import Float32

from data_pipelines.builders.predicted_masks import open_flow_dataset, write_predicted_masks
from data_pipelines.loaders.clips import STORED_GAPS
from oclr_jax.errors import UserError
from oclr_jax.flow import resize_flow
from oclr_jax.oclr.predict import Segmenter, load_segmenter, overlap_of
from oclr_jax.oclr.sequences import predict_sequence
from oclr_jax.weights.file import DEFAULT_WEIGHTS
from oclr_jax.weights.registry import find_weights


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line and predicts; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", help="folder with the dataset_info.json of the dataset")
    parser.add_argument(
        "--weights", help="name or file of the flow model (default: those of the package)"
    )
    parser.add_argument("--name", help="name of the masks (default: that of the weights)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    try:
        segmenter = load_segmenter(options.weights)
        stored = open_flow_dataset(options.dataset).metadata["flow"]["estimator"]
        trained_on = segmenter.info.flow["estimator"]
        if trained_on != stored:
            print(
                f"The weights {segmenter.info.name} were trained on {trained_on} flow; the dataset "
                f"has {stored} flow.",
                file=sys.stderr,
            )
        model = segmenter.info.model
        directory, predicted = write_predicted_masks(
            options.dataset,
            options.name or segmenter.info.name,
            lambda flow: predict_stored(segmenter, flow),
            (model.height, model.width, model.queries),
            describe(segmenter, find_weights(options.weights or DEFAULT_WEIGHTS)),
            quiet=options.quiet,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "Interrupted; finished files are kept. Run the same command again to resume.",
            file=sys.stderr,
        )
        return 130
    print(f"{directory} {'is ready' if predicted else 'exists; nothing to do'}")
    return 0


def describe(segmenter: Segmenter, weights: Path) -> dict[str, object]:
    """What the predictions depend on besides the dataset."""
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
    segmenter: Segmenter, flow: Float32[np.ndarray, "t h w 4"]
) -> tuple[Float32[np.ndarray, "t H W k"], Float32[np.ndarray, "t k"]]:
    """Amodal probabilities and order of a sequence from its stored flow.

    See `predict_sequence`; `flow` is at gaps +1 and -1, in pixels of its own grid.
    """
    model = segmenter.info.model
    # The direction of a gap decides: the model sees the dataset's gap, whatever its length.
    directions = [STORED_GAPS.index(1 if gap > 0 else -1) for gap in model.gaps]
    channels = [2 * direction + axis for direction in directions for axis in (0, 1)]
    return predict_sequence(segmenter, resize_flow(flow[..., channels], model.height, model.width))


if __name__ == "__main__":
    sys.exit(main())

"""The geometric baseline beside every learned model: it sees the same flow and learns nothing."""

import dataclasses

from oclr_jax.models.baselines.geometric import GeometricConfig
from oclr_jax.oclr.predict import Segmenter, load_segmenter

BASELINE = "geometric"  # its name as a model, and its folder in the output of another model


def baseline_of(segmenter: Segmenter | None) -> Segmenter | None:
    """The baseline for flow of the model's gaps, on its grid and in its windows.

    None for masks of a folder, and for the baseline itself.
    """
    if segmenter is None or segmenter.model == BASELINE:
        return None
    model = segmenter.info.model
    baseline = load_segmenter(precision=segmenter.precision, model=BASELINE)
    config = GeometricConfig(model.frames, model.height, model.width, tuple(model.gaps))
    return dataclasses.replace(
        baseline, info=dataclasses.replace(baseline.info, model=config, flow=segmenter.info.flow)
    )

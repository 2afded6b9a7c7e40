"""The record of everything that the metrics of an evaluation depend on."""

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from typing import Any

import cv2
import jax
import numpy as np

import oclr_jax
from oclr_jax.oclr.predict import Segmenter
from oclr_jax.refine.refiner import Refiner, describe_refiners, human_annotation


def evaluation_settings(
    dataset: str,
    title: str,
    protocols: Sequence[str],
    results: str | os.PathLike | None = None,
    segmenter: Segmenter | None = None,
    flow: dict[str, Any] | None = None,
    gap: int | None = None,
    refiners: Sequence[Refiner] = (),
) -> dict[str, Any]:
    """Returns the settings as JSON values, versions included.

    Args:
      dataset: name of the dataset.
      title: what the tables call it.
      protocols: names of the protocols.
      results: folder of the masks that are scored, if no model is run.
      segmenter: the model, if one is run; `flow`, `gap` and `refiners` are then recorded too.
      flow: settings of its flow.
      gap: of the flow, in frames.
      refiners: applied to its tracks.
    """
    model = segmenter.info.model if segmenter else None
    settings = {
        "dataset": dataset,
        "title": title,
        "results": os.fspath(results) if results else None,
        "model": segmenter.model if segmenter else None,
        "weights": segmenter.info.name if segmenter else None,
        "weights_sha256": params_digest(segmenter.params) if segmenter else None,
        "flow": flow if model else None,
        "gap": gap if model else None,
        "precision": segmenter.precision if segmenter else None,
        "passes": segmenter.passes if segmenter else None,
        "grid": [model.height, model.width] if model else None,
        "window": model.frames if model else None,
        "order_from": model.order_from if model else None,
        "join_parts": segmenter.join_parts if segmenter else None,
        "refiners": describe_refiners(refiners),
        "human_annotation": human_annotation(refiners, segmenter.info) if segmenter else None,
        "protocol_names": list(protocols),
        "versions": {
            "oclr_jax": oclr_jax.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "jax": jax.__version__,
        },
    }
    if segmenter and segmenter.sees_frames:
        settings["inputs"] = "flow, RGB"
    return json.loads(json.dumps(settings))


def params_digest(params: Any) -> str:
    """SHA-256 of parameters: other weights under the same name are other settings."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()

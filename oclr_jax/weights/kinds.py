"""The kinds of model whose weights can be stored, and how each is read."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models import corrector, dino, oclr, raft, sam, selector
from oclr_jax.models.baselines import mask_rcnn, motion_grouping
from oclr_jax.torch_import.names_corrector import import_corrector, is_corrector
from oclr_jax.torch_import.names_dino import import_dino, is_dino
from oclr_jax.torch_import.names_motion_grouping import (
    import_motion_grouping,
    is_motion_grouping,
)
from oclr_jax.torch_import.names_oclr import import_oclr, is_oclr
from oclr_jax.torch_import.names_raft import import_raft, is_raft
from oclr_jax.torch_import.names_sam import import_sam, is_sam
from oclr_jax.torch_import.names_selector import import_selector, is_selector
from oclr_jax.torch_import.strict import some_names

# The released OCLR was trained on RAFT flow; frames of the benchmarks have 480 rows.
RAFT_FLOW = {"estimator": "raft", "weights": "raft-things.pth", "iterations": 20, "rows": 480}


@dataclass(frozen=True)
class Kind:
    """One kind of model.

    title: the task of the model, for messages.
    metadata_key: key of the description in the metadata of a safetensors file.
    config: dataclass of the model configuration, with `to_dict` and `from_dict`.
    shapes: returns the shape of every parameter of a configuration, by its path `a/b/c`.
    import_state: converts the arrays of a released checkpoint to parameters and configuration; None
      where none is released.
    is_release: tells from the names of its arrays whether a checkpoint is a release of this kind.
    sees_flow: whether the input of the model is flow; its weights then record the estimator.
    release: fields of the description of released weights, besides model and name.
    """

    title: str
    metadata_key: str
    config: type
    shapes: Callable[[Any], dict[str, tuple[int, ...]]]
    import_state: Callable[[Mapping[str, np.ndarray]], tuple[dict[str, Any], Any]] | None = None
    is_release: Callable[[Collection[str]], bool] = lambda names: False
    sees_flow: bool = False
    release: Mapping[str, Any] = field(default_factory=dict)


KINDS = {
    "oclr": Kind(
        title="segmentation",
        metadata_key="oclr_jax",
        config=oclr.OCLRConfig,
        shapes=oclr.parameter_shapes,
        import_state=import_oclr,
        is_release=is_oclr,
        sees_flow=True,
        release={
            "flow": RAFT_FLOW,
            "data_version": "released",
            "card": {"trained_on": "the released program's synthetic data, RAFT flow"},
        },
    ),
    "raft": Kind(
        title="optical flow",
        metadata_key="oclr_jax_flow",
        config=raft.RAFTConfig,
        shapes=raft.parameter_shapes,
        import_state=import_raft,
        is_release=is_raft,
    ),
    "dino": Kind(
        title="image features",
        metadata_key="oclr_jax_features",
        config=dino.DINOConfig,
        shapes=dino.parameter_shapes,
        import_state=import_dino,
        is_release=is_dino,
    ),
    "selector": Kind(
        title="mask selection",
        metadata_key="oclr_jax_selector",
        config=selector.SelectorConfig,
        shapes=selector.parameter_shapes,
        import_state=import_selector,
        is_release=is_selector,
    ),
    "corrector": Kind(
        title="mask correction",
        metadata_key="oclr_jax_corrector",
        config=corrector.CorrectorConfig,
        shapes=corrector.parameter_shapes,
        import_state=import_corrector,
        is_release=is_corrector,
    ),
    "motion_grouping": Kind(
        title="motion grouping",
        metadata_key="oclr_jax_motion_grouping",
        config=motion_grouping.MotionGroupingConfig,
        shapes=motion_grouping.parameter_shapes,
        import_state=import_motion_grouping,
        is_release=is_motion_grouping,
        sees_flow=True,
        release={
            "flow": RAFT_FLOW,
            "data_version": "released",
            "card": {"trained_on": "the RAFT flow of a benchmark, without its annotations"},
        },
    ),
    "mask_rcnn": Kind(
        title="detection in flow",
        metadata_key="oclr_jax_mask_rcnn",
        config=mask_rcnn.MaskRCNNConfig,
        shapes=mask_rcnn.parameter_shapes,
        sees_flow=True,
    ),
    "sam": Kind(
        title="prompted segmentation",
        metadata_key="oclr_jax_sam",
        config=sam.SAMConfig,
        shapes=sam.parameter_shapes,
        import_state=import_sam,
        is_release=is_sam,
        release={"card": {"trained_on": "images with human annotation"}},
    ),
}


def kind_of(config: Any) -> Kind:
    """The kind of a model configuration."""
    return next(kind for kind in KINDS.values() if type(config) is kind.config)


def kind_of_release(names: Collection[str]) -> Kind:
    """The kind of a released checkpoint with arrays of these names.

    Raises:
      UserError: no kind has such names.
    """
    for kind in KINDS.values():
        if kind.is_release(names):
            return kind
    released = [kind for kind in KINDS.values() if kind.import_state is not None]
    known = " or ".join(kind.config.__name__.removesuffix("Config") for kind in released)
    raise UserError(f"not a checkpoint of {known}: it holds {some_names(names)}.")

"""The tasks of the training loop, by their name in the field `task` of a configuration."""

from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.train.task import Task
from oclr_jax.train.tasks.corrector import open_corrector
from oclr_jax.train.tasks.mask_rcnn import open_mask_rcnn
from oclr_jax.train.tasks.motion_grouping import open_motion_grouping
from oclr_jax.train.tasks.optical_flow import open_optical_flow
from oclr_jax.train.tasks.segmentation import open_segmentation
from oclr_jax.train.tasks.selector import open_selector

TASKS = {
    "segmentation": open_segmentation,
    "optical_flow": open_optical_flow,
    "selector": open_selector,
    "corrector": open_corrector,
    "motion_grouping": open_motion_grouping,
    "mask_rcnn": open_mask_rcnn,
}


def open_task(config: ConfigDict) -> Task:
    """The task of a training configuration; raises UserError where there is no such task."""
    if config.task not in TASKS:
        raise UserError(f"There is no task {config.task!r}; choose from {', '.join(TASKS)}.")
    return TASKS[config.task](config)

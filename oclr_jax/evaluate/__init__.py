"""Evaluation: scores a model or a folder of masks on a dataset, under named protocols."""

from oclr_jax.evaluate.run import evaluate_dataset, evaluate_synthetic
from oclr_jax.evaluate.table import format_table

__all__ = ["evaluate_dataset", "evaluate_synthetic", "format_table"]

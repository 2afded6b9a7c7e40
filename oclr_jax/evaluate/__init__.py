"""A dataset in, tables out, with the protocol's name beside every number."""

from oclr_jax.evaluate.run import evaluate_dataset, evaluate_synthetic
from oclr_jax.evaluate.table import format_table

__all__ = ["evaluate_dataset", "evaluate_synthetic", "format_table"]

"""Results in the formats of other programs, and their summary. Imports no jax."""

from oclr_jax.export.exporter import FORMATS, export_result, export_results
from oclr_jax.export.summary import summarize

__all__ = ["FORMATS", "export_result", "export_results", "summarize"]

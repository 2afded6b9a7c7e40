"""A trace of a few steps of a training, for TensorBoard's profiler and for Perfetto."""

import os
from typing import Any

import jax

# Steps before the traced ones: the first compiles, and a few warm up.
SKIPPED_STEPS = 5
TRACED_STEPS = 3


class StepTrace:
    """Traces steps SKIPPED_STEPS + 1 to SKIPPED_STEPS + TRACED_STEPS of this run into a folder.

    `perfetto_trace.json.gz` in it opens at ui.perfetto.dev, the folder in TensorBoard.
    """

    def __init__(self, folder: str | os.PathLike):
        self._folder, self._steps, self._tracing = os.fspath(folder), 0, False

    def before_step(self) -> None:
        """Call this before every step."""
        if self._steps == SKIPPED_STEPS:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._tracing = True

    def after_step(self, state: Any) -> None:
        """Call this after every step with its result; waits for the last traced step."""
        self._steps += 1
        if self._tracing and self._steps == SKIPPED_STEPS + TRACED_STEPS:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """Writes the trace of a run that ends while it is traced."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False

"""The numeric precision in which models compute."""

import jax

from oclr_jax.types import PRECISIONS


def choose_precision(requested: str | None = None) -> str:
    """The precision for this machine: "float32" or "bfloat16".

    Without a request it is float32 on a CPU, where bfloat16 is slow, and bfloat16 on GPU and TPU.

    Raises:
      ValueError: there is no such precision.
    """
    if requested is None:
        return "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if requested not in PRECISIONS:
        raise ValueError(f"the precision must be one of {PRECISIONS}, not {requested!r}")
    return requested

"""How much of the machine a training uses: FLOPs of a step, peak FLOP/s, memory."""

import math
import resource
import sys
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# Dense bfloat16 FLOP/s of one device, from the vendors' data sheets, by the start of jax's name for
# the device. Other devices, CPUs among them, have no utilisation.
PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L4": 121e12,
    "TPU v3": 123e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
}


def matrix_flops(function: Callable[..., Any], *args: Any) -> int:
    """Floating-point operations of a function's convolutions and matrix products.

    A multiplication and an addition count as two. Loops of known length (`lax.scan`, `lax.map`)
    count as often as they run. Nothing is executed.

    Args:
      function: a function of arrays.
      *args: arrays or `jax.ShapeDtypeStruct`s.
    """
    return _flops(jax.make_jaxpr(function)(*args).jaxpr)


def _flops(jaxpr: core.Jaxpr) -> int:
    return sum(_equation_flops(equation) for equation in jaxpr.eqns)


def _equation_flops(equation: core.JaxprEqn) -> int:
    name, params = equation.primitive.name, equation.params
    out = math.prod(equation.outvars[0].aval.shape) if equation.outvars else 0
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * out * math.prod(left[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * out * math.prod(kernel) // outputs
    times = params["length"] if name == "scan" else 1
    return times * sum(map(_flops, core.jaxprs_in_params(params)))


def machine_use(flops_per_s: float) -> dict[str, float]:
    """Values for the log: `tflops_per_s`, `peak_gib`, and `mfu` where the peak is known.

    mfu: model FLOP utilisation, the fraction of the peak FLOP/s of all devices.
    """
    values = {"tflops_per_s": flops_per_s / 1e12, "peak_gib": peak_gib()}
    peak = device_peak()
    return values if peak is None else values | {"mfu": flops_per_s / (peak * jax.device_count())}


def device_peak() -> float | None:
    """`PEAK_FLOPS` of one device of this process; None where it is not known."""
    kind = jax.local_devices()[0].device_kind
    return next((peak for name, peak in PEAK_FLOPS.items() if kind.startswith(name)), None)


def peak_gib() -> float:
    """Peak memory in GiB: of the first device, or on a CPU of this process."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"] / 2**30
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)

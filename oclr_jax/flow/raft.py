"""RAFT as a flow estimator for frames of any size; features are computed once per frame."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from oclr_jax.errors import UserError
from oclr_jax.models.precision import choose_precision
from oclr_jax.models.raft import MIN_SIDE, RAFT, STRIDE, Context, RAFTConfig
from oclr_jax.types import PRECISIONS
from oclr_jax.video.resize import resize_image
from oclr_jax.weights.file import load_weights
from oclr_jax.weights.registry import find_weights

# The released weights of each estimator.
RELEASED = {"raft": "raft-things", "raft-small": "raft-small"}
# As in the published evaluation.
ITERATIONS = 20
# Frames with more rows are downscaled by default: to 480p, the resolution of the benchmarks and
# several times that of the segmentation models.
MAX_ROWS = 480
# Above this size of the stored correlation of a pair, about 1080p, it is computed on demand.
MAX_CORRELATION_BYTES = 2 * 2**30
# Pairs (or frames) per call of the model. On a CPU, more would only exceed its caches. The last
# call is padded to this number, so each frame size compiles once.
CPU_CHUNK = 1
ACCELERATOR_CHUNK = 4


class Programs(NamedTuple):
    """The compiled parts of RAFT. Every call takes the same number of frames or pairs."""

    features: Callable[[Any, UInt8[Array, "n h w 3"]], Float[Array, "n h8 w8 c"]]
    context: Callable[[Any, UInt8[Array, "n h w 3"]], Context]
    refine: Callable[..., Float[Array, "n h w 2"]]


@lru_cache(maxsize=8)
def make_programs(config: RAFTConfig, iterations: int, on_demand: bool) -> Programs:
    """Compiles the parts of RAFT as pure functions.

    `features` and `context` take (variables, frames); `refine` takes (variables, features of the
    first frames, features of the second frames, context of the first frames).
    """
    model = RAFT(config)

    def part(method):
        @jax.jit
        def apply(variables, frames):
            frames = frames.astype(jnp.float32) / 255
            return model.apply(variables, frames, method=method)

        return apply

    @jax.jit
    def refine(variables, first, second, context):
        inputs = (first, second, context, iterations, on_demand)
        return model.apply(variables, *inputs, method=RAFT.refine).flow

    return Programs(part(RAFT.features), part(RAFT.context), refine)


@lru_cache(maxsize=2)
def load_raft(path: Path, modified_ns: int) -> tuple[Any, RAFTConfig, str]:
    """The variables on the device, their model and their name.

    `modified_ns`, the file's modification time, is part of the cache key: a changed file is read
    again.
    """
    variables, info = load_weights(path, "raft")
    return jax.device_put(variables), info.model, info.name


@dataclass(frozen=True)
class RAFTFlow:
    """RAFT (Teed and Deng, ECCV 2020) with weights from a file: a `FlowEstimator`.

    Frames keep their size, as in the published program, unless they have more than `rows` rows;
    then they are downscaled at their aspect ratio. Internally, frames are padded to multiples of 8
    by repeating the right and bottom border, and the flow is cropped. Sizes with the same padded
    size share a compiled program.
    """

    weights: Path  # safetensors, or a released .pth
    iterations: int = ITERATIONS  # refinement iterations
    rows: int | None = MAX_ROWS  # maximum rows of the working grid; None for no limit
    precision: str = field(default_factory=choose_precision)  # "float32" or "bfloat16"

    # Frames in one call share the features of their neighbours.
    batch: ClassVar[int] = 4

    def __post_init__(self):
        if self.iterations < 1 or (self.rows is not None and self.rows < 16):
            raise UserError("RAFT needs at least 1 iteration and frames of 16 rows or more.")
        if self.precision not in PRECISIONS:
            raise UserError(f"RAFT computes in {' or '.join(PRECISIONS)}, not {self.precision!r}.")
        self._load()  # fails early if the weights are wrong

    def __call__(
        self, first: UInt8[np.ndarray, "n h w 3"], second: UInt8[np.ndarray, "n h w 3"]
    ) -> Float32[np.ndarray, "n H W 2"]:
        """Flow from `first` to `second` (RGB), in pixels of the working grid."""
        size = self.working_size(*first.shape[1:3])
        frames, pairs = _distinct(first, second)
        frames = [_padded(resize_image(frame, *size)) for frame in frames]
        variables, model, _ = self._load()
        cells = frames[0].shape[0] // STRIDE * (frames[0].shape[1] // STRIDE)
        on_demand = 4 / 3 * 4 * cells**2 > MAX_CORRELATION_BYTES
        on_cpu = jax.default_backend() == "cpu"
        chunk = CPU_CHUNK if on_cpu or on_demand else ACCELERATOR_CHUNK
        model = replace(model, compute_dtype=self.precision)
        programs = make_programs(model, self.iterations, on_demand)

        features = _by_frame(programs.features, variables, frames, range(len(frames)), chunk)
        starts = sorted({one for one, _ in pairs})
        contexts = _by_frame(programs.context, variables, frames, starts, chunk)
        flow = np.empty((len(pairs), *size, 2), np.float32)
        for begin in range(0, len(pairs), chunk):
            wanted = pairs[begin : begin + chunk]
            full = wanted + wanted[-1:] * (chunk - len(wanted))
            found = programs.refine(
                variables,
                _stacked([features[one] for one, _ in full]),
                _stacked([features[other] for _, other in full]),
                _stacked([contexts[one] for one, _ in full]),
            )
            flow[begin : begin + len(wanted)] = found[: len(wanted), : size[0], : size[1]]
        return flow

    def settings(self) -> dict[str, Any]:
        """As `FlowEstimator`."""
        return {
            "estimator": "raft",
            "weights": self.weights.name,
            "iterations": self.iterations,
            "rows": self.rows,
            "precision": self.precision,
        }

    def working_size(self, height: int, width: int) -> tuple[int, int]:
        """As `FlowEstimator`."""
        if self.rows is None or height <= self.rows:
            return height, width
        return self.rows, max(1, round(width * self.rows / height))

    def _load(self) -> tuple[Any, RAFTConfig, str]:
        try:
            return load_raft(self.weights, os.stat(self.weights).st_mtime_ns)
        except OSError as error:
            raise UserError(f"Cannot read {self.weights}: {error.strerror}.") from error


def open_raft(
    weights: str | os.PathLike | None = None, estimator: str = "raft", **fields: Any
) -> RAFTFlow:
    """Opens RAFT.

    Args:
      weights: a file, or a name of `registry.find_weights`; None for the released weights.
      estimator: "raft", for weights of either model, or "raft-small".
      fields: of `RAFTFlow`.

    Raises:
      UserError: the weights are missing or of another model, or a field has a wrong value.
    """
    path = find_weights(RELEASED[estimator] if weights is None else weights)
    raft = RAFTFlow(path, **fields)
    _, config, _ = load_raft(path, os.stat(path).st_mtime_ns)
    if estimator == "raft-small" and not config.small:
        raise UserError(f"{path} holds RAFT, not RAFT-small; use raft.")
    return raft


def _distinct(
    first: UInt8[np.ndarray, "n h w 3"], second: UInt8[np.ndarray, "n h w 3"]
) -> tuple[list[UInt8[np.ndarray, "h w 3"]], list[tuple[int, int]]]:
    """The distinct frames of all pairs, and each pair as two indices into them."""
    frames: dict[bytes, np.ndarray] = {}
    number: dict[bytes, int] = {}
    pairs = []
    for pair in zip(first, second, strict=True):
        keys = [frame.tobytes() for frame in pair]
        for key, frame in zip(keys, pair, strict=True):
            frames.setdefault(key, frame)
            number.setdefault(key, len(number))
        pairs.append((number[keys[0]], number[keys[1]]))
    return list(frames.values()), pairs


def _padded(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    missing = [max(-side % STRIDE, MIN_SIDE - side) for side in frame.shape[:2]]
    return np.pad(frame, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def _by_frame(program, variables, frames: list[np.ndarray], wanted, chunk: int) -> dict[int, Any]:
    """Runs a program on the frames with the indices `wanted`; returns its results by index."""
    wanted = list(wanted)
    found = {}
    for begin in range(0, len(wanted), chunk):
        numbers = wanted[begin : begin + chunk]
        full = numbers + numbers[-1:] * (chunk - len(numbers))
        result = program(variables, np.stack([frames[number] for number in full]))
        for index, number in enumerate(numbers):
            found[number] = jax.tree.map(lambda leaf, index=index: leaf[index], result)
    return found


def _stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

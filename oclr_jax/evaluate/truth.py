"""The ground truth of a sequence."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from oclr_jax.datasets.benchmarks import VOID, Benchmark
from oclr_jax.datasets.layouts import BenchmarkSequence, Box
from oclr_jax.errors import UserError
from oclr_jax.ops.metrics import present_ids


@dataclass(frozen=True)
class Truth:
    """The annotated frames of a sequence, and how they are scored."""

    frames: list[int]  # numbers of the annotated frames in the sequence
    ids: UInt8[np.ndarray, "t h w"]  # 0 background, VOID for pixels that are not scored
    drop_ends: bool  # DAVIS2016: the first and the last frame are not scored
    grouped: bool  # under `paper` all layers are joined into one foreground
    official: bool  # under `paper` the official multi-object rule matches once more
    boxes: tuple[Box, ...] = ()  # MoCA: one per frame

    @property
    def objects(self) -> list[int]:
        """The ids of the annotated objects."""
        return [id for id in present_ids(self.ids) if id != VOID]

    @property
    def void(self) -> Bool[np.ndarray, "t h w"] | None:
        """Pixels that are not scored; None if all are."""
        void = self.ids == VOID
        return void if void.any() else None

    def counted(self, protocol: str) -> slice:
        """The scored frames; the evaluator of DAVIS2016 leaves out the first and the last."""
        everything = protocol == "davis-unsupervised" or protocol.startswith("motion-grouping")
        ends = self.drop_ends and not everything and len(self.frames) > 2
        return slice(1, -1) if ends else slice(None)


def read_truth(sequence: BenchmarkSequence, benchmark: Benchmark) -> Truth:
    """Reads all annotations of a sequence.

    In the user's own data, annotations with no values but 0 and 255 are binary, as in DAVIS2016.
    Raises UserError if all annotations are empty or their sizes differ.
    """
    ids = []
    for frame in sequence.annotated:
        ids.append(sequence.annotation(frame))
        if ids[-1].shape != ids[0].shape:
            raise UserError(
                f"The annotation of {sequence.name}, frame {sequence.stems[frame]}, is "
                f"{_size(ids[-1])} and the first one {_size(ids[0])}; they must have one size."
            )
    height, width, _ = sequence.frame(sequence.annotated[0]).shape
    if ids[0].shape != (height, width):
        raise UserError(
            f"The annotations of {sequence.name} are {_size(ids[0])} and its frames "
            f"{width}x{height}; they must have one size."
        )
    ids = np.stack(ids)
    values = set(present_ids(ids))
    if not values:
        raise UserError(
            f"The annotations of {sequence.name} are all empty, so nothing can be measured."
        )
    binary = benchmark.name == "folder" and values == {VOID}
    if benchmark.single or binary:
        ids = (ids > 0).astype(np.uint8)
    return Truth(
        frames=sequence.annotated,
        ids=ids,
        drop_ends=benchmark.drop_ends or binary,
        grouped=benchmark.grouped,
        official="davis-unsupervised" in benchmark.protocols,
        boxes=tuple(sequence.boxes[frame] for frame in sequence.annotated if sequence.boxes),
    )


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"

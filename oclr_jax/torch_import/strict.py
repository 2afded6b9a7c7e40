"""The strict import of released arrays: PyTorch names and layouts to a tree of Flax parameters.

A model has one table, `{PyTorch name: Entry}` (`names_oclr.py`, `names_raft.py`, ...). A state dict
is imported if every entry of the table is there, with its shape, and nothing else is.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from oclr_jax.errors import UserError
from oclr_jax.models.parameters import describe_mismatch, unflatten

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """The destination of one released array.

    paths: Flax paths (`a/b/c`); several where the released array is packed along its rows.
    to_flax: converts one part from PyTorch's layout.
    to_torch: the shape of one part in PyTorch's layout, from that in Flax.
    """

    paths: tuple[str, ...]
    to_flax: Callable[[np.ndarray], np.ndarray] = lambda array: array
    to_torch: Callable[[Shape], Shape] = lambda shape: shape

    def torch_shape(self, shapes: Mapping[str, Shape]) -> Shape:
        """The shape that the released array must have, from the Flax shapes."""
        rows, *rest = self.to_torch(shapes[self.paths[0]])
        return (rows * len(self.paths), *rest)


def linear(*paths: str) -> Entry:
    """`[out, in]` to `[in, out]`."""
    return Entry(paths, lambda a: a.T, lambda s: (s[1], s[0]))


def convolution(path: str) -> Entry:
    """`[out, in, h, w]` to `[h, w, in, out]`."""
    return Entry((path,), lambda a: a.transpose(2, 3, 1, 0), lambda s: (s[3], s[2], s[0], s[1]))


def transposed_convolution(path: str) -> Entry:
    """`[in, out, h, w]` to `[in, h, w, out]`."""
    return Entry((path,), lambda a: a.transpose(0, 2, 3, 1), lambda s: (s[0], s[3], s[1], s[2]))


def pixel_linear(path: str) -> Entry:
    """1x1 convolution `[out, in, 1, 1]` to `[in, out]`."""
    return Entry((path,), lambda a: a[:, :, 0, 0].T, lambda s: (s[1], s[0], 1, 1))


def with_bias(torch: str, flax: str, layer: Callable[[str], Entry]) -> dict[str, Entry]:
    """Entries of a layer's kernel, in the layout `layer`, and of its bias."""
    return {
        f"{torch}.weight": layer(f"{flax}/kernel"),
        f"{torch}.bias": Entry((f"{flax}/bias",)),
    }


def import_state(
    state: Mapping[str, np.ndarray],
    entries: Mapping[str, Entry],
    shapes: Mapping[str, Shape],
    model: str,
    duplicates: Mapping[str, str] | None = None,
    ignored: Collection[str] = (),
    dead: Mapping[str, Shape] | None = None,
) -> dict[str, Any]:
    """Converts released arrays to a nested dict of float32 parameters.

    Args:
      state: arrays by PyTorch name.
      entries: the model's table; every array in it is required.
      shapes: the shape of every parameter by its Flax path.
      model: the model's name with its article, for messages.
      duplicates: further names under which the release holds an array, with its name in `entries`.
      ignored: names of scalars in the release that the model does not need.
      dead: names and shapes of arrays in the release that no output depends on.

    Raises:
      UserError: lists every missing, extra and misshapen entry; else every array that is not
        floating-point or not finite; else duplicates that differ.
    """
    duplicates = duplicates or {}
    expected = {name: entry.torch_shape(shapes) for name, entry in entries.items()}
    expected |= {name: expected[first] for name, first in duplicates.items()}
    expected |= dict.fromkeys(ignored, ()) | (dead or {})
    mismatch = describe_mismatch({name: array.shape for name, array in state.items()}, expected)
    if mismatch:
        raise UserError(f"not the entries of {model} model: {mismatch}.")
    used = {name: state[name] for name in [*entries, *duplicates]}
    # Not kind "f" alone: numpy does not count bfloat16 as floating-point.
    wrong = [name for name, array in used.items() if array.dtype.kind in "biu"]
    if wrong:
        raise UserError(f"not floating-point numbers: {', '.join(wrong)}.")
    used = {name: array.astype(np.float32) for name, array in used.items()}
    wrong = [name for name, array in used.items() if not np.isfinite(array).all()]
    if wrong:
        raise UserError(f"not finite: {', '.join(wrong)}.")
    for name, first in duplicates.items():
        if not np.array_equal(used[name], used[first]):
            raise UserError(f"{name} and {first} must be the same array and differ.")
    flat = {}
    for name, entry in entries.items():
        for path, part in zip(entry.paths, np.split(used[name], len(entry.paths)), strict=True):
            flat[path] = np.ascontiguousarray(entry.to_flax(part))
    return unflatten(flat)


def some_names(names: Collection[str], count: int = 3) -> str:
    """The first few names, and the number of the others."""
    shown = ", ".join(repr(name[:80]) for name in list(names)[:count])
    return f"{shown} and {len(names) - count} more entries" if len(names) > count else shown

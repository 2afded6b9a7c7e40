"""Trees of parameters as flat dicts `{"a/b/c": leaf}`, and comparisons of their shapes."""

from collections.abc import Mapping
from typing import Any

import jax


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict to `{"a/b/c": leaf}`."""
    flat = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def describe_mismatch(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]
) -> str:
    """Lists missing, extra and misshapen entries of `found`; empty where there are none."""
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    misshapen = [
        f"{name} is {list(found[name])} and must be {list(expected[name])}"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    parts = [("missing", missing), ("extra", extra), ("misshapen", misshapen)]
    return "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)


def param_count(params: Any) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))

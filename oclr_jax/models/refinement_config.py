"""Checks of model configurations, and their reading from JSON, for the selector and corrector."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

from oclr_jax.models.backbones import BACKBONES
from oclr_jax.types import PRECISIONS

Config = TypeVar("Config")


def check_counts(config: Any, names: Iterable[str]) -> None:
    """Raises ValueError unless each of these fields is a whole number above 0."""
    for name in names:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise ValueError(f"{name} must be a positive integer: {value!r}")


def check_refinement_config(config: Any) -> None:
    """Checks the fields that selector and corrector share; raises ValueError."""
    check_counts(config, ("height", "width", "heads", "feedforward", "feature_channels"))
    if len(config.channels) < 2 or not all(type(n) is int and n > 0 for n in config.channels):
        raise ValueError(f"channels must be at least two positive integers: {config.channels}")
    if not 0.0 <= config.dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1): {config.dropout}")
    if config.backbone not in BACKBONES:
        raise ValueError(f"backbone must be one of {', '.join(BACKBONES)}: {config.backbone!r}")
    if config.compute_dtype not in PRECISIONS:
        raise ValueError(f"compute_dtype must be float32 or bfloat16: {config.compute_dtype!r}")
    if config.height % config.stride or config.width % config.stride:
        raise ValueError(
            f"height {config.height} and width {config.width} must be multiples of {config.stride}"
        )


def config_from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
    """A configuration from its fields as JSON values, lists for tuples.

    Raises ValueError for missing, unknown or mistyped fields.
    """
    types = {field.name: field.type for field in fields(cls)}
    if values.keys() != types.keys():
        raise ValueError(f"model config: it must have exactly the fields {sorted(types)}")
    values = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    for name, value in values.items():
        kind = types[name] if isinstance(types[name], type) else tuple
        if type(value) is not kind:
            raise ValueError(f"model config: {name} must be {kind.__name__}: {value!r}")
    return cls(**values)

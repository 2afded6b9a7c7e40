"""The description inside a file of weights: JSON in the metadata of the safetensors file."""

import json
from dataclasses import dataclass, field
from typing import Any

from oclr_jax.types import ANNOTATED
from oclr_jax.weights.kinds import Kind, kind_of

FORMAT_VERSION = 1


@dataclass(frozen=True)
class WeightsInfo:
    """What the weights are and what input they expect; using them needs no config file.

    model: the model's configuration; its type is the kind of the weights.
    name: a short name.
    flow: for models of flow, the settings of the estimator that they were trained with.
    data_version: for models of flow, the version of the training data.
    card: provenance (steps, seed, metrics, command, ...); JSON values.
    format_version: version of the file format.
    """

    model: Any
    name: str
    flow: dict[str, Any] | None = None
    data_version: str | None = None
    card: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def kind(self) -> Kind:
        """The kind of the weights."""
        return kind_of(self.model)

    @property
    def human_annotation(self) -> bool:
        """Whether these weights, or those that they started from, learned from human annotation."""
        versions, card = [self.data_version], self.card
        while card:
            versions.append(card.get("data_version"))
            card = card.get("started_from")
        return any(ANNOTATED in version for version in versions if version)

    def to_json(self) -> str:
        """The fields as a JSON object, without those that the kind does not have."""
        values = {name: getattr(self, name) for name in _field_types(self.kind)}
        return json.dumps(values | {"model": self.model.to_dict()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, kind: Kind) -> "WeightsInfo":
        """Inverse of `to_json`; raises ValueError where the text is not such an object."""
        values, types = json.loads(text), _field_types(kind)
        if not isinstance(values, dict) or values.keys() != types.keys():
            raise ValueError(f"the description must have exactly the fields {sorted(types)}")
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"format version {values['format_version']}, this program reads {FORMAT_VERSION}"
            )
        for name, type_ in types.items():
            if not isinstance(values[name], type_):
                raise ValueError(f"{name} must be {type_.__name__}")
        return cls(**values | {"model": kind.config.from_dict(values["model"])})


def _field_types(kind: Kind) -> dict[str, type]:
    """The type in JSON of each field that a description of this kind has."""
    types = {"model": dict, "name": str, "card": dict, "format_version": int}
    return types | ({"flow": dict, "data_version": str} if kind.sees_flow else {})

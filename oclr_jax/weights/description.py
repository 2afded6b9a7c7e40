"""What a file of weights says of itself: a dataclass as JSON in the file's metadata."""

import json
import typing
from dataclasses import fields
from typing import Any, TypeVar

FORMAT_VERSION = 1
D = TypeVar("D", bound="Description")


class Description:
    """Base of the dataclasses that describe weights.

    A `model` field holds a configuration with `to_dict` and `from_dict`, `format_version` the
    version of the file's layout; the others hold plain JSON values.
    """

    def to_json(self) -> str:
        """The fields as a JSON object."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return json.dumps(values | {"model": self.model.to_dict()}, sort_keys=True)

    @classmethod
    def from_json(cls: type[D], text: str) -> D:
        """Inverse of `to_json`; raises ValueError where the text is not such an object."""
        values = json.loads(text)
        types = typing.get_type_hints(cls)
        names = [item.name for item in fields(cls)]
        if not isinstance(values, dict) or values.keys() != set(names):
            raise ValueError(f"the description must have exactly the fields {sorted(names)}")
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"format version {values['format_version']}, this program reads {FORMAT_VERSION}"
            )
        for name in names:
            _check_type(name, values[name], dict if name == "model" else types[name])
        return cls(**values | {"model": types["model"].from_dict(values["model"])})


def _check_type(name: str, value: Any, kind: Any) -> None:
    kind = typing.get_origin(kind) or kind
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {kind.__name__}")

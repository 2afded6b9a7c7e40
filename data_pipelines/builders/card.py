"""The card of a dataset, its README.md: description, parameters, sources and files."""

import hashlib
import json
import os
from typing import Any

from etils import epath

_TEXT = """# {name}/{config}, version {version}

{description}

Made by the `oclr_syn` builder of oclr_jax, without human annotation. Any change of the data
changes the version number {version}. Results on this dataset are not comparable with results on
the published dataset of the same name.

Amodal masks end at the frame's border. Shadows and reflections belong to the background. Every
object is visible in at least one frame.

## Sequences

{splits}

## Sources

{sources}

## Parameters

{parameters}

## Fields

{fields}

## Files

{files}
"""


def write_card(directory: str | os.PathLike) -> None:
    """Writes README.md into a finished dataset of `oclr_syn`, from its metadata.

    `directory` holds `dataset_info.json`, `features.json`, `metadata.json` and the records.
    """
    folder = epath.Path(directory)
    info = json.loads((folder / "dataset_info.json").read_text())
    settings = json.loads((folder / "metadata.json").read_text())
    features = json.loads((folder / "features.json").read_text())
    files = sorted(path for path in folder.iterdir() if ".array_record" in path.name)
    splits = settings.get("splits", {})
    parameters = {key: value for key, value in settings.items() if key not in ("sources", "splits")}
    text = _TEXT.format(
        name=info["name"],
        config=info["configName"],
        version=info["version"],
        description=info.get("configDescription", info["description"]).strip(),
        splits="\n".join(f"- {name}: {count}" for name, count in splits.items()),
        sources="\n".join(_sources(settings.get("sources", {}))),
        parameters="\n".join(_flat("", parameters)),
        fields="\n".join(_fields("", features)),
        files="\n".join(f"- {path.name}: sha256 {_sha256(path)}" for path in files),
    )
    (folder / "README.md").write_text(text)


def _sources(sources: dict[str, Any]) -> list[str]:
    lines = []
    for kind, source in sources.items():
        if kind == "procedural":
            lines.append(f"- {source:.0%} of the textures and shapes: procedural all the same")
            continue
        if source is None:
            lines.append(f"- {kind}: procedural, no files")
            continue
        broken = f", {len(source['broken'])} unreadable files skipped" if source["broken"] else ""
        lines.append(
            f"- {kind}: {source['name']}, {source['files']} files{broken}; "
            f"licence: {source['licence']}; digest {source['digest']}"
        )
    return lines


def _flat(prefix: str, values: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, dict):
            lines += _flat(f"{prefix}{key}.", value)
        else:
            lines.append(f"- {prefix}{key}: {json.dumps(value)}")
    return lines


def _fields(prefix: str, node: dict[str, Any]) -> list[str]:
    """Every field with its documentation, from TFDS's description of the features."""
    inner = node.get("featuresDict", {}).get("features")
    if inner is None and "sequence" in node:
        return _fields(prefix, node["sequence"]["feature"])
    if inner is None:
        return [f"- {prefix}: {node.get('description', '')}"]
    start = f"{prefix}/" if prefix else ""
    return [line for name in sorted(inner) for line in _fields(f"{start}{name}", inner[name])]


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

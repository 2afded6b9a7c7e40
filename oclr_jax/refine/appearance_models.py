"""The trained models of the refiners `select` and `correct`, ready to run, and what they see."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from oclr_jax.errors import UserError
from oclr_jax.models.backbones import FrozenBackbone, encode_images
from oclr_jax.models.dino import DINOConfig, normalize_images
from oclr_jax.models.parameters import flatten
from oclr_jax.models.precision import choose_precision
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import Track, frame_masks
from oclr_jax.weights.backbones import load_backbone
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import TORCH_SUFFIXES, load_weights
from oclr_jax.weights.registry import SHIPPED, cache_folder

DEFAULT_WEIGHTS = "refine-small"  # with -selector or -corrector after it
_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
_BATCH = 8  # frames that pass through the backbone together


@dataclasses.dataclass(frozen=True)
class AppearanceModel:
    """A selector or corrector with its parameters and its backbone."""

    info: WeightsInfo
    config: Any  # that of the weights, with the precision of this machine
    params: Any
    backbone: FrozenBackbone | None

    def settings(self) -> dict[str, Any]:
        """What the model's results depend on, as JSON values."""
        return {
            "weights": self.info.name,
            "backbone": self.config.backbone,
            "exemplars": self.config.exemplars,
            "precision": self.config.compute_dtype,
            "human_annotation": self.info.human_annotation,
        }

    def images(self, video: RefinerVideo) -> Sequence[UInt8[np.ndarray, "h w 3"]]:
        """The frames of a video at the size that the model sees, by frame number."""
        size = self.config.height, self.config.width
        return video.features("RGB", *size, lambda frames: frames)

    def features(self, video: RefinerVideo) -> Sequence[Float[np.ndarray, "h w c"]]:
        """The backbone's features of a video, by frame number."""
        encode = _compile_encoder(self.config, self.backbone and self.backbone.config)
        frozen = None if self.backbone is None else self.backbone.variables
        params = {"backbone": self.params["backbone"]} if frozen is None else {}

        def compute(frames: Iterator[UInt8[np.ndarray, "h w 3"]]) -> Iterable[np.ndarray]:
            while batch := list(islice(frames, _BATCH)):
                # One shape for all, so that the last batch does not compile again.
                filled = np.stack([*batch, *[batch[-1]] * (_BATCH - len(batch))])
                found = np.asarray(encode(params, frozen, filled)[: len(batch)], np.float16)
                yield from found

        key = f"{self.config.backbone}/{self._digest}/stride{self.config.stride}"
        return video.features(key, self.config.height, self.config.width, compute)

    @property
    def _digest(self) -> str:
        """Identifies the backbone's parameters and precision."""
        own = self.backbone is None
        tree = self.params["backbone"] if own else self.backbone.variables
        digest = hashlib.sha256(self.config.compute_dtype.encode())
        for path, leaf in sorted(flatten(tree).items()):
            digest.update(path.encode())
            digest.update(np.ascontiguousarray(leaf))
        return digest.hexdigest()[:16]


@lru_cache(maxsize=4)
def _compile_encoder(
    config: Any, dino: DINOConfig | None
) -> Callable[[Any, Any, Any], Float[Array, "n h w c"]]:
    """The backbone as a compiled function of parameters, frozen variables and RGB frames."""

    def encode(params, frozen, frames):
        images = normalize_images(frames.astype(jnp.float32) / 255)
        backbone = None if frozen is None else FrozenBackbone(dino, frozen)
        return encode_images(config, params, backbone, images)

    return jax.jit(encode)


def load_appearance_model(kind: str, folder: str | os.PathLike | None) -> AppearanceModel:
    """Loads a selector or corrector.

    Args:
      kind: "selector" or "corrector".
      folder: with a file of weights that has the kind in its name; None for the default weights.

    Raises:
      UserError: there is no such file, or it cannot be used.
    """
    params, info = load_weights(_find(kind, folder), kind)
    config = dataclasses.replace(info.model, compute_dtype=choose_precision())
    return AppearanceModel(info, config, params, load_backbone(config))


def _find(kind: str, folder: str | os.PathLike | None) -> Path:
    if folder is None:
        for place in (SHIPPED, cache_folder()):
            path = place / f"{DEFAULT_WEIGHTS}-{kind}.safetensors"
            if path.is_file():
                return path
        raise UserError(
            f"There are no weights of the {kind}; give a folder that has them with "
            "--refine-weights, or train them with "
            f"configs/{kind}.py and put them into {cache_folder()} as "
            f"{DEFAULT_WEIGHTS}-{kind}.safetensors."
        )
    if not Path(folder).is_dir():
        raise UserError(f"There is no folder {os.fspath(folder)}; check --refine-weights.")
    found = [
        path
        for path in sorted(Path(folder).iterdir())
        if kind in path.name and path.suffix in _SUFFIXES
    ]
    if len(found) != 1:
        raise UserError(
            f"{os.fspath(folder)} has {len(found)} files of weights with {kind} in their name; "
            f"leave exactly one, such as {kind}.safetensors or {kind}.pth."
        )
    return found[0]


def visible_masks(
    tracks: Sequence[Track], frame: int, height: int, width: int
) -> Bool[np.ndarray, "height width k"]:
    """The visible part of every track in a frame."""
    ids, _ = frame_masks(tracks, frame, height, width)
    return ids[..., None] == np.array([track.id for track in tracks], np.uint8)


def network_images(
    images: Sequence[UInt8[np.ndarray, "h w 3"]], frames: Sequence[int]
) -> Float[np.ndarray, "t h w 3"]:
    """Frames as the models take them."""
    chosen = np.stack([images[frame] for frame in frames]).astype(np.float32) / 255
    return np.asarray(normalize_images(jnp.asarray(chosen)))

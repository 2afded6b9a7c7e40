"""Dense CRF: snaps masks to the edges of the image, as the last refiner (`--refine crf`).

Second paper, section 3.4 and supplement. Both papers end with a dense CRF and publish no settings;
see `crf_settings`.
"""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from oclr_jax.ops.mean_field import exact_filter, mean_field, spatial_filter
from oclr_jax.ops.permutohedral import Lattice, build_lattice, lattice_filter
from oclr_jax.refine.crf_settings import CRF_PRESETS, DEFAULT_PRESET, CRFSettings
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.tracks import StoredMask, Track
from oclr_jax.video.resize import resize_image

# Larger frames are reduced to about 854x480, for which the published settings were chosen.
MAX_PIXELS = 480 * 854
_EXACT_PIXELS = 2048  # up to this size all pairs of pixels are used: the lattice is coarse there
_LABEL_PROBABILITY = 0.8  # for unary "label"


class CRF:
    """Refines the modal masks of all objects of a frame jointly, frame by frame."""

    name = "crf"

    def __init__(self, preset: str = DEFAULT_PRESET) -> None:
        """`preset` is a key of `CRF_PRESETS`."""
        self.preset = preset
        self.parameters = CRF_PRESETS[preset]

    def settings(self) -> dict[str, Any]:
        """See `Refiner`."""
        return {"preset": self.preset, "max_pixels": MAX_PIXELS, **asdict(self.parameters)}

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """See `Refiner`. Objects whose probability is nowhere above 0.5 stay as they are."""
        refined = {track.id: replace(track, modal=dict(track.modal)) for track in tracks}
        front_to_back = sorted(refined.values(), key=lambda track: track.rank)
        height, width = _working_size(video.clip.height, video.clip.width)
        for frame, image in enumerate(video.frames("CRF")):
            found = {track.id: _soft_mask(track, frame) for track in front_to_back}
            found = {id: soft for id, soft in found.items() if soft is not None}
            if not found:
                continue
            image = jnp.asarray(resize_image(image, height, width))
            soft = [_enlarge(jnp.asarray(soft), height, width) for soft, _ in found.values()]
            modal = jnp.asarray([modal for _, modal in found.values()])
            probability = label_probability(jnp.stack(soft), modal)
            q = dense_crf(image, probability, self.parameters)
            labels, q = np.asarray(q.argmax(axis=0)), np.asarray(q)
            for label, id in enumerate(found, start=1):
                refined[id].modal[frame] = StoredMask.encode(labels == label, q[label])
        return [refined[track.id] for track in tracks]


def dense_crf(
    image: UInt8[Array, "h w 3"], probability: Float32[Array, "labels h w"], settings: CRFSettings
) -> Float32[Array, "labels h w"]:
    """Returns the marginal probabilities of a dense CRF after mean field inference.

    Args:
      image: RGB.
      probability: of each label, in 0..1.
      settings: kernels, unary energy and number of iterations. One program is compiled per size of
        the image, number of labels, settings, and power of two of the lattice's size.
    """
    features = _bilateral_features(image, settings.bilateral_sigma, settings.color_sigma)
    exact = features.shape[1] <= _EXACT_PIXELS
    kernel = features if exact else build_lattice(features)
    return _infer(probability, kernel, settings)


@partial(jax.jit, static_argnums=2)
def _infer(
    probability: Float32[Array, "labels h w"],
    kernel: Lattice | Float32[Array, "d n"],
    settings: CRFSettings,
) -> Float32[Array, "labels h w"]:
    labels, height, width = probability.shape
    bilateral = partial(lattice_filter, kernel)
    if not isinstance(kernel, Lattice):
        bilateral = exact_filter(kernel)
    kernels = [(settings.bilateral_weight, bilateral)]
    if settings.spatial_sigma:
        spatial = spatial_filter(height, width, settings.spatial_sigma)
        kernels.append((settings.spatial_weight, spatial))
    energy = unary_energy(probability, settings).reshape(labels, -1)
    return mean_field(energy, kernels, settings.iterations).reshape(probability.shape)


def unary_energy(
    probability: Float[Array, "labels h w"], settings: CRFSettings
) -> Float[Array, "labels h w"]:
    """Energy of each label at each pixel; label 0 is the background."""
    if settings.unary == "label":
        most_likely = probability.argmax(axis=0) == jnp.arange(len(probability))[:, None, None]
        rest = (1 - _LABEL_PROBABILITY) / (len(probability) - 1)
        return jnp.where(most_likely, -np.log(_LABEL_PROBABILITY), -np.log(rest))
    if settings.unary == "softmax":
        probability = jax.nn.softmax(probability, axis=0)
    if settings.peak:
        objects = probability[1:]
        objects = objects / (objects.max(axis=(1, 2), keepdims=True) + 1e-8)
        background = jnp.maximum(1 - objects.sum(axis=0, keepdims=True), 0)
        probability = jnp.concatenate([background, objects])
    return -jnp.log(jnp.clip(probability, settings.floor, 1))


@jax.jit
def label_probability(
    soft: Float32[Array, "k h w"], modal: Bool[Array, "k"]
) -> Float32[Array, "labels h w"]:
    """Joins soft masks to one distribution over the background and the k objects; labels = k + 1.

    Args:
      soft: foreground probabilities, front to back.
      modal: which of them are of the visible part only. The others lose what is in front of them.
    """
    uncovered, visible = jnp.ones_like(soft[0]), []
    for own, is_modal in zip(soft, modal, strict=True):
        visible.append(jnp.where(is_modal, own, own * uncovered))
        uncovered = uncovered * (1 - own)
    joint = jnp.stack([jnp.maximum(1 - sum(visible), 0), *visible])
    return joint / joint.sum(axis=0, keepdims=True)


@partial(jax.jit, static_argnums=(1, 2))
def _bilateral_features(
    image: UInt8[Array, "h w 3"], sigma: float, color_sigma: float
) -> Float32[Array, "5 n"]:
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    place = jnp.stack([x, y]).astype(jnp.float32) / sigma
    color = jnp.moveaxis(image, -1, 0).astype(jnp.float32) / color_sigma
    return jnp.concatenate([place, color]).reshape(5, -1)


@partial(jax.jit, static_argnums=(1, 2))
def _enlarge(
    soft: Float32[Array, "h w"], height: int, width: int
) -> Float32[Array, "height width"]:
    return jax.image.resize(soft, (height, width), "linear", antialias=False)


def _soft_mask(track: Track, frame: int) -> tuple[Float32[np.ndarray, "h w"], bool] | None:
    """An object's probabilities and whether they are modal; None if nowhere above 0.5."""
    modal = frame in track.modal_probability
    stored = (track.modal_probability if modal else track.amodal_probability).get(frame)
    soft = None if stored is None else stored.decode()
    return None if soft is None or soft.max() <= 0.5 else (soft, modal)


def _working_size(height: int, width: int) -> tuple[int, int]:
    """The frame's size, or less if it has more than `MAX_PIXELS`."""
    scale = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
    return max(1, round(scale * height)), max(1, round(scale * width))

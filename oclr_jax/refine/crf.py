"""Dense CRF: snaps masks to the edges of the image, last or before SAM (`--refine crf`).

Second paper, section 3.4 and supplement. Both papers end with a dense CRF and publish no settings;
see `crf_settings`.
"""

from dataclasses import asdict, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, UInt8

from oclr_jax.ops.mean_field import exact_filter, mean_field, spatial_filter
from oclr_jax.ops.permutohedral import Lattice, build_lattice, lattice_filter
from oclr_jax.refine.crf_settings import CRF_PRESETS, DEFAULT_PRESET, CRFSettings
from oclr_jax.refine.joint import joint_probability
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
        refined = {
            track.id: replace(
                track, modal=dict(track.modal), modal_probability=dict(track.modal_probability)
            )
            for track in tracks
        }
        height, width = _working_size(video.clip.height, video.clip.width)
        for frame, image in enumerate(video.frames("CRF")):
            found = [track for track in refined.values() if _is_found(track, frame)]
            if not found:
                continue
            image = jnp.asarray(resize_image(image, height, width))
            joint = joint_probability(found, frame, (height, width))
            q = dense_crf(image, jnp.asarray(joint.transpose(2, 0, 1)), self.parameters)
            labels, q = np.asarray(q.argmax(axis=0)), np.asarray(q)
            for label, track in enumerate(found, start=1):
                track.modal[frame] = StoredMask.encode(labels == label, q[label])
                track.modal_probability[frame] = video.store_probability(q[label])
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


@partial(jax.jit, static_argnums=(1, 2))
def _bilateral_features(
    image: UInt8[Array, "h w 3"], sigma: float, color_sigma: float
) -> Float32[Array, "5 n"]:
    height, width, _ = image.shape
    y, x = jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")
    place = jnp.stack([x, y]).astype(jnp.float32) / sigma
    color = jnp.moveaxis(image, -1, 0).astype(jnp.float32) / color_sigma
    return jnp.concatenate([place, color]).reshape(5, -1)


def _is_found(track: Track, frame: int) -> bool:
    """Whether the object's probability is anywhere above 0.5."""
    stored = track.modal_probability.get(frame) or track.amodal_probability.get(frame)
    return stored is not None and bool((stored.decode() > 0.5).any())


def _working_size(height: int, width: int) -> tuple[int, int]:
    """The frame's size, or less if it has more than `MAX_PIXELS`."""
    scale = min(1.0, (MAX_PIXELS / (height * width)) ** 0.5)
    return max(1, round(scale * height)), max(1, round(scale * width))

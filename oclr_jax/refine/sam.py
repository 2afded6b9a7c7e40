"""`--refine sam`: masks refined frame by frame by Segment Anything, prompted with the masks.

Second paper, section 4.3, supplement A.3 and C.4. The model was trained with human annotation.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float16, Float32, UInt8

from oclr_jax.models.precision import choose_precision
from oclr_jax.models.sam import FOREGROUND, SAM, Prompts, SAMConfig
from oclr_jax.models.sam.frames import frame_logits, grid_points, mask_logits, square_image
from oclr_jax.refine.joint import joint_probability
from oclr_jax.refine.refiner import RefinerVideo
from oclr_jax.refine.sam_settings import POINTS, SAM_WEIGHTS
from oclr_jax.tracks import StoredMask, Track
from oclr_jax.video.clip import progress
from oclr_jax.weights.file import load_weights
from oclr_jax.weights.registry import find_weights

# Frames per call of the encoder. The last call is padded to this number.
CPU_BATCH = 1
ACCELERATOR_BATCH = 4
# Prompts are decoded in multiples of this number, so that few programs are compiled.
PROMPTS = 4


@dataclass(frozen=True)
class SAMRefiner:
    """Every object of a frame is one prompt: its mask, and points inside it.

    The image is encoded once for all objects, and their prompts are decoded together. An object
    without a mask in a frame stays without; one that the model does not find keeps its mask.
    Where answers overlap, a pixel belongs to the object with the largest logit.
    """

    name: str
    weights: str
    digest: str  # of the file
    config: SAMConfig
    variables: Any  # "params"

    def settings(self) -> dict[str, Any]:
        """As `Refiner`."""
        return {
            "weights": self.weights,
            "weights_sha256": self.digest,
            "precision": self.config.compute_dtype,
            "prompts": f"mask and {POINTS} points",
            "human_annotation": True,
        }

    def __call__(self, video: RefinerVideo, tracks: list[Track]) -> list[Track]:
        """As `Refiner`."""
        if not tracks:
            return tracks
        clip = video.clip
        size = clip.height, clip.width
        embeddings = video.features(self._features_id, *size, self.embed)
        refined = {
            t.id: replace(t, modal=dict(t.modal), modal_probability=dict(t.modal_probability))
            for t in tracks
        }
        numbered = [(frame, number) for number, shot in enumerate(clip.shots) for frame in shot]
        for frame, number in progress(numbered, "prompting", len(numbered), video.quiet):
            shown = [track for track in tracks if track.shot == number]
            found = self._refine_frame(embeddings[frame], shown, frame, size)
            for id, (mask, probability) in found.items():
                refined[id].modal[frame] = StoredMask.encode(mask, probability)
                refined[id].modal_probability[frame] = video.store_probability(probability)
        return [refined[track.id] for track in tracks]

    def embed(
        self, frames: Iterable[UInt8[np.ndarray, "h w 3"]]
    ) -> Iterator[Float16[np.ndarray, "g g e"]]:
        """Yields the embedding of each frame."""
        size = CPU_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
        frames = iter(frames)
        while batch := list(islice(frames, size)):
            images = [square_image(frame, self.config.side) for frame in batch]
            images = np.stack(images + images[-1:] * (size - len(batch)))
            yield from np.asarray(_encode(self.variables, images, self.config))[: len(batch)]

    @property
    def _features_id(self) -> str:
        """Names everything that an embedding depends on, apart from the frame."""
        return f"SAM {self.digest} {self.config} float16"

    def _refine_frame(
        self,
        embedding: Float16[np.ndarray, "g g e"],
        tracks: Sequence[Track],
        frame: int,
        size: tuple[int, int],
    ) -> dict[int, tuple[Bool[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]]:
        """Mask and probability of every object that has a mask before and after, by id."""
        soft = joint_probability(tracks, frame, size)[..., 1:]
        prompted = [k for k in range(len(tracks)) if (soft[..., k] > 0.5).any()]
        if not prompted:
            return {}
        prompts = make_prompts([soft[..., k] for k in prompted], *size, self.config)
        logits = decode_prompts(self.variables, embedding, prompts, self.config, *size)
        logits = np.asarray(logits)[: len(prompted)]
        winner = np.where(logits.max(axis=0) > 0, logits.argmax(axis=0), -1)
        found = {}
        for index, k in enumerate(prompted):
            mask = winner == index
            if mask.any():
                found[tracks[k].id] = mask, _sigmoid(logits[index])
        return found


def make_prompts(
    soft: Sequence[Float32[np.ndarray, "h w"]], height: int, width: int, config: SAMConfig
) -> Prompts:
    """A prompt for each soft mask; their number is filled up to a multiple of `PROMPTS`."""
    masks = [mask_logits(each, height, width, config) for each in soft]
    step = config.side / config.mask_side
    points = []
    for mask in masks:
        # A mask that is smaller than a pixel of the prompt has its most probable one.
        inside = mask > min(0.0, np.nextafter(mask.max(), -np.inf))
        points.append((grid_points(inside, POINTS) + 0.5) * step - 0.5)
    fill = -len(masks) % PROMPTS
    points = np.stack(points + points[-1:] * fill).astype(np.float32)
    labels = np.full(points.shape[:2], FOREGROUND, np.int32)
    return Prompts(points, labels, None, np.stack(masks + masks[-1:] * fill))


@partial(jax.jit, static_argnums=2)
def _encode(
    variables: Any, images: Float32[Array, "b s s 3"], config: SAMConfig
) -> Float16[Array, "b g g e"]:
    return SAM(config).apply(variables, images, method=SAM.encode).astype(jnp.float16)


@partial(jax.jit, static_argnums=(3, 4, 5))
def decode_prompts(
    variables: Any,
    embedding: Float16[Array, "g g e"],
    prompts: Prompts,
    config: SAMConfig,
    height: int,
    width: int,
) -> Float[Array, "n h w"]:
    """The mask for a clear prompt, at the size of the frame."""
    embedding = embedding.astype(jnp.float32)
    masks = SAM(config).apply(variables, embedding, prompts, method=SAM.decode)
    return frame_logits(masks.logits[:, 0], height, width, config.side)


def _sigmoid(logits: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "h w"]:
    return 1 / (1 + np.exp(-np.clip(logits, -30, 30)))


def open_sam(name: str) -> SAMRefiner:
    """Opens the refiner of this name, a key of `SAM_WEIGHTS`.

    Raises:
      UserError: its weights are missing or are not such weights.
    """
    path = find_weights(SAM_WEIGHTS[name])
    variables, info = load_weights(path, "sam")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    config = replace(info.model, compute_dtype=choose_precision())
    return SAMRefiner(name, info.name, digest, config, jax.device_put(variables))

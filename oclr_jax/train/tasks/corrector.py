"""The task of the mask corrector: refined masks from exemplars (second paper, section 3.3)."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, Shaped, UInt8
from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.models.corrector import (
    Corrector,
    CorrectorConfig,
    CorrectorOutput,
    Exemplars,
    init_params,
)
from oclr_jax.models.dino import DINOConfig
from oclr_jax.models.selector import mask_quality
from oclr_jax.ops import losses
from oclr_jax.ops.corruption import Corruption
from oclr_jax.ops.refinement_losses import CorrectorLossWeights, corrector_loss, true_error_map
from oclr_jax.ops.selection import (
    one_object_per_pixel,
    select_exemplars,
    take_frames,
    take_own_frames,
)
from oclr_jax.train.data import TrainingData
from oclr_jax.train.record.strips import mask_strip
from oclr_jax.train.record.utilisation import matrix_flops
from oclr_jax.train.task import LossAux, Metrics, Variables
from oclr_jax.train.tasks.masks_and_frames import (
    LAYERS,
    corrupted,
    encode_clips,
    j_sums,
    matched_masks,
    open_model_config,
    open_rgb_clips,
    validation_keys,
)
from oclr_jax.weights.backbones import load_backbone
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import load_weights, save_weights


def open_corrector(config: ConfigDict) -> "CorrectorTask":
    """The task of a configuration from configs/corrector.py.

    Raises:
      UserError: the fields make no model, or the clips do not fit it.
    """
    model = open_model_config(CorrectorConfig, config)
    if model.objects != LAYERS:
        raise UserError(f"Clips have {LAYERS} objects; set model.objects to {LAYERS}.")
    if config.data.frames < model.frames:
        raise UserError(
            f"Clips of {config.data.frames} frames are shorter than a window of {model.frames}; "
            "raise data.frames or lower model.frames."
        )
    frozen = load_backbone(model)
    return CorrectorTask(
        model,
        CorrectorLossWeights(**config.loss),
        Corruption(**config.corruption),
        frozen.config if frozen else None,
        frozen.variables if frozen else {},
        config.data.frames,
        config.data.quality_noise,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class CorrectorTask:
    """A `Task` with frames, masks and exemplars as input, and refined masks as output.

    The exemplars come from the whole clip, the targets are a window of it. Exemplars are the masks
    with the smallest true error relative to their area, in training times a random factor for each
    mask, so that some are not the best, as with a selector. `modal_j` is J of the refined masks,
    `input_j` that of the predicted masks; `corrupted_j` and `corrupted_input_j` those of corrupted
    ones. `reconstruction` is the mean square error of the features.
    """

    config: CorrectorConfig
    weights: CorrectorLossWeights
    corruption: Corruption
    dino: DINOConfig | None  # the frozen backbone
    frozen: Any  # its variables
    frames: int  # of a clip
    quality_noise: float  # standard deviation of the logarithm of the factor on the error

    batch_fields: ClassVar = frozenset({"rgb", "modal", "predicted", "predicted_order"})
    scores: ClassVar = (
        "loss",
        "modal_j",
        "input_j",
        "corrupted_j",
        "corrupted_input_j",
        "reconstruction",
    )
    best_score: ClassVar = "modal_j"
    higher_is_better: ClassVar = True
    curves: ClassVar = {
        "loss": ("train/loss", "train/bce", "train/boundary", "train/alpha", "validation/loss"),
        "J before and after": (
            "validation/modal_j",
            "validation/input_j",
            "validation/corrupted_j",
            "validation/corrupted_input_j",
        ),
        "reconstruction": ("train/reconstruction", "validation/reconstruction"),
        "learning rate": ("train/learning_rate",),
    }

    def open_data(self, config: ConfigDict) -> TrainingData:
        """As `Task`: clips of a generated dataset with stored predicted masks."""
        return open_rgb_clips(config)

    def init_variables(self, seed: int) -> Variables:
        """As `Task`."""
        params = jax.jit(lambda: init_params(self.config, seed))()
        return Variables(params, {}, self.frozen)

    def load_weights(self, path: str) -> tuple[Variables, dict[str, Any]]:
        """As `Task`; released `.pth` files too."""
        params, info = load_weights(path, "corrector")
        return Variables(params, {}, self.frozen), {"weights": info.name, **info.card}

    def loss_normalizer(self, part: Any) -> Int[Array, ""]:
        """As `Task`: the pixels of the boundary band in the windows."""
        window = self._take_window(part["modal"], self._starts(part["example_key"]))
        return losses.boundary_band(window).sum()

    def loss(
        self,
        variables: Variables,
        part: Any,
        normalizer: Float[Array, ""],
        axis_name: str | None = None,
    ) -> tuple[Float[Array, ""], LossAux]:
        """As `Task`."""
        keys = jax.vmap(lambda key: jax.random.split(key, 4))(part["example_key"])
        masks, truth = matched_masks(part)
        # So that the place of an object says nothing about its depth.
        shuffled = jax.vmap(lambda key: jax.random.permutation(key, LAYERS))(keys[:, 0])
        masks, truth = (jax.vmap(lambda x, i: x[..., i])(x, shuffled) for x in (masks, truth))
        masks = corrupted(keys[:, 1], masks, truth, self.corruption)
        noise = jax.vmap(lambda key: jax.random.normal(key, (self.frames, LAYERS)))(keys[:, 2])
        quality = _true_quality(masks, truth) * jnp.exp(self.quality_noise * noise)
        starts = self._starts(part["example_key"])
        inputs = self._inputs(variables, part, masks, quality, starts)

        def apply(clip):
            one = jax.tree.map(lambda x: x[clip : clip + 1], inputs)
            return Corrector(self.config).apply(
                {"params": variables.params}, *one, train=True, rngs={"dropout": keys[clip, 3]}
            )

        # Each clip has its own dropout key. Unrolled: compiling the gradient of the model under
        # `jax.vmap` crashes XLA on CPUs (jaxlib 0.10).
        output = jax.tree.map(
            lambda *clips: jnp.concatenate(clips), *(apply(i) for i in range(len(masks)))
        )
        window = self._take_window(truth, starts)
        loss, terms = self._loss(output, window, inputs[2], normalizer)
        return loss, LossAux({"loss": loss, **terms})

    def evaluate(self, variables: Variables, batch: Any) -> tuple[Metrics, dict[str, Array]]:
        """As `Task`, on the window in the middle; the prediction is its masks, corrupted ones."""
        masks, truth = matched_masks(batch)
        starts = jnp.full(len(masks), (self.frames - self.config.frames) // 2)
        window = self._take_window(truth, starts)
        clips, sums = jnp.float32(len(masks)), {}
        for name, before in (("modal_j", "input_j"), ("corrupted_j", "corrupted_input_j")):
            if name == "corrupted_j":
                masks = corrupted(validation_keys(truth), masks, truth, self.corruption)
            quality = _true_quality(masks, truth)
            inputs = self._inputs(variables, batch, masks, quality, starts)
            output = Corrector(self.config).apply({"params": variables.params}, *inputs)
            refined = one_object_per_pixel(jax.nn.sigmoid(output.mask_logits))
            sums |= j_sums(name, refined, window) | j_sums(before, inputs[1] > 0, window)
            if name == "modal_j":
                loss, terms = self._loss(output, window, inputs[2], None)
                sums |= {"loss_sum": loss * clips, "loss_count": clips}
                error = terms.get("reconstruction", jnp.float32(0))
                there = clips * ("reconstruction" in terms)
                sums |= {"reconstruction_sum": error * clips, "reconstruction_count": there}
        frames = self._take_window(batch["rgb"], starts)
        rows = {"truth": window, "input": inputs[1] > 0, "refined": refined}
        return sums, {"frames": frames, **rows}

    def draw(self, batch: Any, prediction: Any) -> UInt8[np.ndarray, "H W 3"]:
        """As `Task`. Rows: frames, true masks, corrupted masks, refined masks."""
        rows = [np.asarray(prediction[name][0]) for name in ("truth", "input", "refined")]
        return mask_strip(np.asarray(prediction["frames"][0]), rows)

    def step_flops(self, examples: int) -> int:
        """As `Task`; a frozen backbone counts once."""
        size = (1, self.frames, self.config.height, self.config.width)
        part = {"rgb": jax.ShapeDtypeStruct((*size, 3), jnp.uint8)}
        masks = jax.ShapeDtypeStruct((*size, LAYERS), bool)
        variables = jax.eval_shape(lambda: self.init_variables(0))

        def encode(variables, part):
            return encode_clips(self.config, self.dino, variables, part)

        def forward(variables, part, masks):
            quality = jnp.zeros((1, self.frames, LAYERS))
            inputs = self._inputs(variables, part, masks, quality, jnp.zeros(1, int))
            return Corrector(self.config).apply({"params": variables.params}, *inputs)

        backbone = matrix_flops(encode, variables, part)
        total = matrix_flops(forward, variables, part, masks)
        return examples * (3 * total - (0 if self.dino is None else 2 * backbone))

    def export(
        self,
        path: str | os.PathLike,
        variables: Variables,
        name: str,
        card: dict[str, Any],
        metadata: Mapping[str, Any],
        dtype: str,
    ) -> None:
        """As `Task`."""
        model = dataclasses.replace(self.config, compute_dtype="float32")
        card = {**card, "data_version": metadata["data_version"]}
        save_weights(path, variables.params, WeightsInfo(model, name, card=card), dtype=dtype)

    def _loss(
        self,
        output: CorrectorOutput,
        truth: Bool[Array, "b t h w k"],
        features: Float[Array, "b t y x c"],
        band_pixels: Float[Array, ""] | None,
    ) -> tuple[Float[Array, ""], Metrics]:
        return corrector_loss(
            *(output.mask_logits, truth.astype(jnp.uint8), output.reconstruction),
            *(features, output.alphas, self.weights, band_pixels),
            map_logits=output.map_logits,
        )

    def _starts(self, keys: Key[Array, "b"]) -> Int[Array, "b"]:
        """The first frame of each clip's window."""
        last = self.frames - self.config.frames
        # Not a key that `loss` uses.
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
        return jax.vmap(lambda key: jax.random.randint(key, (), 0, last + 1))(keys)

    def _take_window(
        self, clips: Shaped[Array, "b frames *s"], starts: Int[Array, "b"]
    ) -> Shaped[Array, "b t *s"]:
        take = jax.lax.dynamic_slice_in_dim
        return jax.vmap(lambda x, start: take(x, start, self.config.frames))(clips, starts)

    def _inputs(
        self,
        variables: Variables,
        part: Mapping[str, Array],
        masks: Bool[Array, "b frames h w k"],
        quality: Float[Array, "b frames k"],
        starts: Int[Array, "b"],
    ) -> tuple:
        """The arguments of the model for the windows from `starts`."""
        images, features = encode_clips(self.config, self.dino, variables, part)
        masks = masks.astype(jnp.float32)
        exemplars = choose_exemplars(quality, masks, features, self.config.exemplars)
        windows = (self._take_window(x, starts) for x in (images, masks, features))
        frames = starts[:, None] + jnp.arange(self.config.frames)
        return (*windows, exemplars, frames)


def choose_exemplars(
    quality: Float[Array, "b t k"],
    masks: Float[Array, "b t h w k"],
    features: Float[Array, "b t y x c"],
    count: int,
) -> Exemplars:
    """The exemplars of clips: per object, the frames of highest quality."""
    index, valid = select_exemplars(quality, count)
    own = take_own_frames(jnp.moveaxis(masks, -1, 2), index)
    scores = take_own_frames(jax.nn.softmax(quality, axis=1), index)
    return Exemplars(
        features=take_frames(features, index),
        masks=jnp.moveaxis(own, 2, -1),
        scores=scores,
        frames=index,
        valid=valid,
    )


def _true_quality(
    masks: Bool[Array, "b t h w k"], truth: Bool[Array, "b t h w k"]
) -> Float[Array, "b t k"]:
    """The quality of a selector that knows the truth; see `mask_quality`."""
    wrong = true_error_map(masks, truth).astype(jnp.float32)
    return mask_quality(wrong, masks.astype(jnp.float32))

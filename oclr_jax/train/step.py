"""The pure training step and the pure evaluation of a batch: arrays in, arrays out."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float, Key

from oclr_jax.models.oclr import OCLROutput
from oclr_jax.ops import layering, losses, matching
from oclr_jax.train.state import TrainState
from oclr_jax.types import Batch

Metrics = dict[str, Float[Array, ""]]

# What the evaluation of a batch adds to: each score's sum, and how many it is the sum of.
SCORES = ("loss", "modal_j", "amodal_j", "order_accuracy")
SUMS = tuple(f"{score}_{part}" for score in SCORES for part in ("sum", "count"))


def make_train_step(
    model: nn.Module,
    weights: losses.LossWeights,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A pure function (state, batch) -> (next state, metrics), not yet compiled.

    However the clips of a batch are spread, the step is that of the whole batch to rounding: the
    boundary term is divided by the band pixels of all clips, and each clip has a dropout key of its
    own, the seed's with the step and the clip's place in the batch folded in. So a resumed training
    draws what the uninterrupted one does, on any number of devices.

    The metrics are the loss, its terms, the gradient's norm before it is clipped (finite exactly
    where the step can be trusted), and two signs that the transformer is alive: `token_spread`, by
    how much the encoder's tokens of a batch differ (standard deviation, 1 at best), and
    `live_maps`, the share of the attention maps above 0. Both go to 0 where it gives every clip the
    same.

    Where loss or gradient are not finite, the step is skipped: only `step` of the state changes.

    Args:
      accumulate: parts of the batch whose gradients are computed one after the other and averaged;
        it divides the clips that the function is given.
      axis_name: of the mapped axis, where the function runs under `jax.pmap` on one shard of the
        batch for each device; None: on the whole batch.
    """
    key = jax.random.key(seed)

    def mean(parts):
        """Over the leading axis, and over the devices."""
        parts = jax.tree.map(lambda x: x.mean(axis=0), parts)
        return parts if axis_name is None else jax.lax.pmean(parts, axis_name)

    def loss_of(params, part, band_pixels):
        out, inside = _apply_to_clips(model, params, part["flow"], part["dropout"])
        loss, terms = losses.layered_loss(
            *(out.amodal_logits, out.order, part["amodal"], part["modal"], weights),
            *(inside["query_maps"], band_pixels),
        )
        alive = (inside["attention_maps"] > 0).mean(dtype=jnp.float32)
        tokens = inside["encoded"].astype(jnp.float32)
        moments = tokens.mean(axis=(0, 1, 2, 3)), tokens.var(axis=(0, 1, 2, 3))
        return loss, ({"loss": loss, **terms, "live_maps": alive}, moments)

    def gradient(params, batch, keys):
        """Of the mean loss, with metrics, over all parts on all devices."""
        parts = _split({**batch, "dropout": keys}, accumulate)
        masks = losses.supervised_masks(parts["amodal"], parts["modal"], weights)
        counts = jax.vmap(lambda part: losses.boundary_band(part).sum())(masks)
        band_pixels = mean(counts.astype(jnp.float32))

        def gradient_of(part):
            return jax.grad(loss_of, has_aux=True)(params, part, band_pixels)

        def add(total, part):
            grads, seen = gradient_of(part)
            return jax.tree.map(jnp.add, total, grads), seen

        # No loop where none is needed, and none on a CPU, where it makes convolutions several
        # times slower.
        if accumulate == 1:
            total, seen = gradient_of(jax.tree.map(lambda x: x[0], parts))
            metrics, moments = jax.tree.map(lambda x: x[None], seen)
        else:
            nothing, on_cpu = jax.tree.map(jnp.zeros_like, params), jax.default_backend() == "cpu"
            total, (metrics, moments) = jax.lax.scan(add, nothing, parts, unroll=on_cpu)
        # Averaged over the devices here, outside of what is differentiated, and once: the gradient
        # of a mean over devices is another thing, and Adam would hide a common factor.
        grads = mean(jax.tree.map(lambda x: x[None] / accumulate, total))
        return grads, mean(metrics) | {"token_spread": _spread(*moments, mean)}

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        clips = batch["flow"].shape[0]
        first = 0 if axis_name is None else clips * jax.lax.axis_index(axis_name)
        step_key = jax.random.fold_in(key, state.step)
        keys = jax.vmap(partial(jax.random.fold_in, step_key))(first + jnp.arange(clips))
        grads, metrics = gradient(state.params, batch, keys)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        moved = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            average=_moved_average(state, params, ema_decay),
        )
        metrics |= {"grad_norm": optax.tree.norm(grads)}
        return _if_finite(metrics, moved, state.replace(step=state.step + 1)), metrics

    return step


def _if_finite(metrics: Metrics, moved: TrainState, unmoved: TrainState) -> TrainState:
    """The state after a step; one that cannot be trusted changes nothing but the count."""
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, unmoved)


def _apply_to_clips(
    model: nn.Module, params: Any, flow: Float[Array, "b t h w c"], keys: Key[Array, "b"]
) -> tuple[OCLROutput, dict[str, Array]]:
    """The model's output and its intermediates, dropout drawn for each clip from its own key."""

    def apply(flow, key):
        out, inside = model.apply(
            {"params": params},
            flow[None],
            train=True,
            rngs={"dropout": key},
            mutable=["intermediates"],
        )
        inside = {name: values[0] for name, values in inside["intermediates"].items()}
        return jax.tree.map(lambda x: x[0], (out, inside))

    return jax.vmap(apply)(flow, keys)


def _split(batch: Any, parts: int) -> Any:
    """Leading axis `b` to `parts b/parts`; part i has clips i, i + parts, ...

    So each part has clips of every device, and no clip moves to another one.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def _spread(
    means: Float[Array, "parts c"], variances: Float[Array, "parts c"], mean: Callable
) -> Float[Array, ""]:
    """Standard deviation of tokens over the batch, mean over channels, from those of its parts."""
    return jnp.sqrt(mean(variances + jnp.square(means - mean(means)))).mean()


def _moved_average(state: TrainState, params: Any, decay: float) -> Any:
    """The average after a step; young ones follow faster, so that random parameters fade."""
    if state.average is None:
        return None
    decay = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)


def make_eval_step(
    model: nn.Module, weights: losses.LossWeights
) -> Callable[[Any, Batch], tuple[Metrics, dict[str, Array]]]:
    """A pure function (params, batch) -> (sums to add up over batches, masks), not yet compiled.

    Masks are matched to the ground truth per clip by time-mean IoU, modal and amodal apart. The
    sums hold, for `modal_j` and `amodal_j`, the J of frames (mean over the layers that are there)
    and how many frames have any; for `order_accuracy`, the overlapping pairs put in the right order
    and all of them; for `loss`, that of every clip, without the query term, which serves training.
    """
    weights = dataclasses.replace(weights, query=0.0)

    def evaluate(params: Any, batch: Batch) -> tuple[Metrics, dict[str, Array]]:
        out = model.apply({"params": params}, batch["flow"])
        truth = batch["amodal"], batch["modal"]
        loss, _ = losses.layered_loss(out.amodal_logits, out.order, *truth, weights)
        clips = jnp.float32(batch["flow"].shape[0])
        amodal = out.amodal_logits > 0
        modal = layering.hard_modal(amodal, out.order[:, None])
        sums = {"loss_sum": loss * clips, "loss_count": clips}
        for name, masks in (("amodal", amodal), ("modal", modal)):
            iou, there = matching.matched_iou(masks, batch[name].astype(bool))
            per_frame = (iou * there).sum(axis=-1) / jnp.maximum(there.sum(axis=-1), 1)
            sums[f"{name}_j_sum"] = per_frame.sum()
            sums[f"{name}_j_count"] = there.any(axis=-1).sum().astype(jnp.float32)
        cost = matching.pairwise_bce(out.amodal_logits, batch["amodal"])
        order = matching.take_layers(out.order, matching.assign(cost))
        overlap = losses.overlapping_pairs(batch["amodal"])
        right = overlap & (losses.depth_gaps(order) > 0)
        sums["order_accuracy_sum"] = right.sum().astype(jnp.float32)
        sums["order_accuracy_count"] = overlap.sum().astype(jnp.float32)
        return sums, {"amodal": amodal, "modal": modal}

    return evaluate


def means(sums: dict[str, float]) -> dict[str, float]:
    """`x_sum` over `x_count` for every x that was counted at least once."""
    names = [name.removesuffix("_sum") for name in sums if name.endswith("_sum")]
    return {n: sums[f"{n}_sum"] / sums[f"{n}_count"] for n in names if sums[f"{n}_count"] > 0}

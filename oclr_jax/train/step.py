"""The pure training step and the pure evaluation of a batch: arrays in, arrays out."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Float

from oclr_jax.ops import layering, losses, matching
from oclr_jax.train.state import TrainState
from oclr_jax.types import Batch

Metrics = dict[str, Float[Array, ""]]


def make_train_step(
    model: nn.Module,
    weights: losses.LossWeights,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float = 0.0,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """A pure function (state, batch) -> (next state, metrics), not yet compiled.

    Its dropout key is the seed's with the step folded in, so that a resumed training draws what the
    uninterrupted one does. The metrics are the loss, its terms, the gradient's norm before it is
    clipped (finite exactly where the step can be trusted), and two signs that the transformer is
    alive: `token_spread`, by how much the encoder's tokens of a batch differ (standard deviation, 1
    at best), and `live_maps`, the share of the attention maps above 0. Both go to 0 where it gives
    every clip the same.

    Where loss or gradient are not finite, the step is skipped: only `step` of the state changes.
    """
    key = jax.random.key(seed)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        rngs = {"dropout": jax.random.fold_in(key, state.step)}

        def loss_of(params):
            out, inside = model.apply(
                {"params": params}, batch["flow"], train=True, rngs=rngs, mutable=["intermediates"]
            )
            inside = {name: values[0] for name, values in inside["intermediates"].items()}
            truth = batch["amodal"], batch["modal"]
            loss, terms = losses.layered_loss(
                out.amodal_logits, out.order, *truth, weights, inside["query_maps"]
            )
            return loss, terms | _vital_signs(inside)

        (loss, terms), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        moved = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            average=_moved_average(state, params, ema_decay),
        )
        metrics = {"loss": loss, **terms, "grad_norm": optax.tree.norm(grads)}
        return _if_finite(metrics, moved, state.replace(step=state.step + 1)), metrics

    return step


def _if_finite(metrics: Metrics, moved: TrainState, unmoved: TrainState) -> TrainState:
    """The state after a step; one that cannot be trusted changes nothing but the count."""
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), moved, unmoved)


def _vital_signs(inside: dict[str, Array]) -> Metrics:
    """See `make_train_step`; from the model's intermediates."""
    tokens, maps = inside["encoded"], inside["attention_maps"]
    spread = jnp.std(tokens.astype(jnp.float32), axis=(0, 1, 2, 3)).mean()
    return {"token_spread": spread, "live_maps": (maps > 0).mean(dtype=jnp.float32)}


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

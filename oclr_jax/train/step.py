"""The pure training step of any task: arrays in, arrays out."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from oclr_jax.train.schedule import stop_frozen_gradients
from oclr_jax.train.state import TrainState
from oclr_jax.train.task import Metrics, Task, Variables


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    unroll: bool = True,
    groups: Sequence[tuple[str, float]] = (),
    axis_name: str | None = None,
) -> Callable[[TrainState, Any, Mapping[str, Any]], tuple[TrainState, Metrics]]:
    """A pure function (state, frozen, batch) -> (next state, metrics), not yet compiled.

    However the examples of a batch are split, the step is that of the whole batch up to rounding:
    the loss is normalised over all examples, and each example has its own random key, which folds
    the step and the example's index in the batch into the seed. So a resumed training draws the
    same random numbers as an uninterrupted one, on any number of devices.

    The metrics are the task's, and `grad_norm`, the gradient's norm before clipping, which is
    finite exactly where the step can be trusted. A step whose loss or gradient is not finite
    changes only `step` of the state.

    Args:
      accumulate: parts of the batch whose gradients are computed one after the other and averaged;
        it divides the number of examples that the function gets. Batch statistics are those of a
        part.
      unroll: write out the loop over the parts. For CPUs, where a loop makes convolutions several
        times slower.
      groups: as `OptimizerConfig.groups`; frozen groups get no gradient.
      axis_name: of the mapped axis of devices, where the function gets the examples of one device.
        None: it gets the whole batch.
    """
    key = jax.random.key(seed)

    def mean(parts):
        """Mean over the leading axis and over the devices."""
        parts = jax.tree.map(lambda x: x.mean(axis=0), parts)
        return parts if axis_name is None else jax.lax.pmean(parts, axis_name)

    def gradient(state, frozen, batch, keys):
        """Gradient of the mean loss, metrics, and model state, over all parts on all devices."""
        parts = _split({**batch, "example_key": keys}, accumulate)
        normalizer = mean(jax.vmap(task.loss_normalizer)(parts).astype(jnp.float32))

        def loss(params, part):
            params = stop_frozen_gradients(params, groups)
            variables = Variables(params, state.model_state, frozen)
            return task.loss(variables, part, normalizer, axis_name)

        def gradient_of(part):
            return jax.grad(loss, has_aux=True)(state.params, part)

        def add(total, part):
            grads, aux = gradient_of(part)
            return jax.tree.map(jnp.add, total, grads), aux

        # No loop for a single part.
        if accumulate == 1:
            total, aux = gradient_of(jax.tree.map(lambda x: x[0], parts))
            aux = jax.tree.map(lambda x: x[None], aux)
        else:
            zeros = jax.tree.map(jnp.zeros_like, state.params)
            total, aux = jax.lax.scan(add, zeros, parts, unroll=unroll)
        # Averaged over the devices here, outside of what is differentiated, and once: the gradient
        # of a mean over devices is something else, and Adam would hide a constant factor.
        grads = mean(jax.tree.map(lambda x: x[None] / accumulate, total))
        spreads = {name: _spread(*each, mean) for name, each in aux.moments.items()}
        return grads, mean(aux.metrics) | spreads, mean(aux.model_state)

    def step(
        state: TrainState, frozen: Any, batch: Mapping[str, Any]
    ) -> tuple[TrainState, Metrics]:
        examples = next(iter(batch.values())).shape[0]
        first = 0 if axis_name is None else examples * jax.lax.axis_index(axis_name)
        step_key = jax.random.fold_in(key, state.step)
        keys = jax.vmap(partial(jax.random.fold_in, step_key))(first + jnp.arange(examples))
        grads, metrics, model_state = gradient(state, frozen, batch, keys)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        updated = TrainState(
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            model_state=model_state,
            ema_params=_updated_ema(state, params, ema_decay),
        )
        metrics |= {"grad_norm": optax.tree.norm(grads)}
        return _if_finite(metrics, updated, state.replace(step=state.step + 1)), metrics

    return step


def _if_finite(metrics: Metrics, updated: TrainState, skipped: TrainState) -> TrainState:
    """The updated state; the skipped one where loss or gradient is not finite."""
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, skipped)


def _split(batch: Any, parts: int) -> Any:
    """Splits the leading axis `b` to `parts b/parts`; part i has the examples i, i + parts, ...

    So each part has examples of every device, and none moves to another device.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def _spread(
    means: Float[Array, "parts c"], variances: Float[Array, "parts c"], mean: Callable
) -> Float[Array, ""]:
    """Standard deviation over the batch, averaged over channels, from the moments of its parts."""
    return jnp.sqrt(mean(variances + jnp.square(means - mean(means)))).mean()


def _updated_ema(state: TrainState, params: Any, decay: float) -> Any:
    """The average after a step. Early averages follow faster, to forget the random start."""
    if state.ema_params is None:
        return None
    decay = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.ema_params, params)

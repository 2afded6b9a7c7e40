"""The pure training step of any task: arrays in, arrays out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from oclr_jax.train.state import TrainState
from oclr_jax.train.task import Metrics, Task
from oclr_jax.types import AnyBatch


def make_train_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    ema_decay: float = 0.0,
    accumulate: int = 1,
    axis_name: str | None = None,
) -> Callable[[TrainState, AnyBatch], tuple[TrainState, Metrics]]:
    """A pure function (state, batch) -> (next state, metrics), not yet compiled.

    However the examples of a batch are spread, the step is that of the whole batch to rounding:
    what the task's loss is divided by is counted over all examples, and each example has a random
    key of its own, the seed's with the step and the example's place in the batch folded in. So a
    resumed training draws what the uninterrupted one does, on any number of devices.

    The metrics are the task's, and the gradient's norm before it is clipped (finite exactly where
    the step can be trusted).

    Where loss or gradient are not finite, the step is skipped: only `step` of the state changes.

    Args:
      accumulate: parts of the batch whose gradients are computed one after the other and averaged;
        it divides the examples that the function is given.
      axis_name: of the mapped axis, where the function runs under `jax.pmap` on one shard of the
        batch for each device; None: on the whole batch.
    """
    key = jax.random.key(seed)

    def mean(parts):
        """Over the leading axis, and over the devices."""
        parts = jax.tree.map(lambda x: x.mean(axis=0), parts)
        return parts if axis_name is None else jax.lax.pmean(parts, axis_name)

    def gradient(params, batch, keys):
        """Of the mean loss, with metrics, over all parts on all devices."""
        parts = _split({**batch, "example_key": keys}, accumulate)
        unit = mean(jax.vmap(task.loss_unit)(parts).astype(jnp.float32))

        def gradient_of(part):
            return jax.grad(task.loss, has_aux=True)(params, part, unit)

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
        metrics = mean(metrics)
        return grads, metrics | {name: _spread(*each, mean) for name, each in moments.items()}

    def step(state: TrainState, batch: AnyBatch) -> tuple[TrainState, Metrics]:
        examples = batch["flow"].shape[0]
        first = 0 if axis_name is None else examples * jax.lax.axis_index(axis_name)
        step_key = jax.random.fold_in(key, state.step)
        keys = jax.vmap(partial(jax.random.fold_in, step_key))(first + jnp.arange(examples))
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


def _split(batch: Any, parts: int) -> Any:
    """Leading axis `b` to `parts b/parts`; part i has examples i, i + parts, ...

    So each part has examples of every device, and none moves to another one.
    """
    return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def _spread(
    means: Float[Array, "parts c"], variances: Float[Array, "parts c"], mean: Callable
) -> Float[Array, ""]:
    """Standard deviation over the batch, mean over channels, from the moments of its parts."""
    return jnp.sqrt(mean(variances + jnp.square(means - mean(means)))).mean()


def _moved_average(state: TrainState, params: Any, decay: float) -> Any:
    """The average after a step; young ones follow faster, so that random parameters fade."""
    if state.average is None:
        return None
    decay = jnp.minimum(decay, (1.0 + state.step) / (10.0 + state.step))
    return jax.tree.map(lambda a, p: decay * a + (1 - decay) * p, state.average, params)


def means(sums: dict[str, float]) -> dict[str, float]:
    """`x_sum` over `x_count` for every x that was counted at least once."""
    names = [name.removesuffix("_sum") for name in sums if name.endswith("_sum")]
    return {n: sums[f"{n}_sum"] / sums[f"{n}_count"] for n in names if sums[f"{n}_count"] > 0}

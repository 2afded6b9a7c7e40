"""Learning-rate schedule, parameter groups and optimizer (OCLR, supplement, section A.3; RAFT)."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Int

from oclr_jax.errors import UserError


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with a linear warm-up and a decay. The defaults are those of the OCLR paper."""

    learning_rate: float = 5e-5  # after the warm-up
    warmup_steps: int = 40_000  # linear; the first step already has a positive learning rate
    decay: Literal["halving", "cosine", "linear"] = "halving"
    halve_every: int = 80_000  # steps between halvings, counted from step 0
    max_halvings: int = 9  # the learning rate stays constant after these
    final_fraction: float = 0.01  # of the learning rate, at the end of cosine and linear decay
    clip_value: float = 5.0  # bound on every component of the gradient
    clip_norm: float = 0.0  # bound on the global norm of the gradient, applied first; 0: none
    weight_decay: float = 0.0  # of all trained parameters, decoupled as in AdamW
    # (pattern, factor): learning rate of the parameters whose path, joined by "/", begins with a
    # match of the regular expression, relative to `learning_rate`. The first match counts, other
    # parameters have the factor 1, and the factor 0 freezes.
    groups: tuple[tuple[str, float], ...] = ()


def learning_rate_schedule(
    config: OptimizerConfig, steps: int
) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
    """The learning rate as a function of the step, from 0, in a training of `steps` steps.

    The warm-up multiplies the decay, and reaches 1 at step `warmup_steps - 1`. (The published
    program runs its first two steps at the full learning rate, a slip that is not copied.)
    """

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        warmup = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
        if config.decay == "halving":
            halvings = jnp.floor(step / config.halve_every)
            decay = 0.5 ** jnp.minimum(halvings, config.max_halvings)
        else:
            after = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
            after = jnp.clip(after, 0.0, 1.0)
            cosine = config.decay == "cosine"
            left = 0.5 * (1 + jnp.cos(jnp.pi * after)) if cosine else 1 - after
            decay = config.final_fraction + (1 - config.final_fraction) * left
        return config.learning_rate * warmup * decay

    return schedule


def learning_rate_factors(params: Any, groups: Sequence[tuple[str, float]]) -> Any:
    """The learning-rate factor of every parameter, as a tree of floats.

    Args:
      params: nested dict.
      groups: as `OptimizerConfig.groups`.

    Raises:
      UserError: a pattern is not a regular expression, or matches no parameter.
    """
    try:
        patterns = [re.compile(pattern) for pattern, _ in groups]
    except re.error as error:
        raise UserError(
            f"optimizer.groups has {error.pattern!r}, which is no regular expression: {error}."
        ) from error
    flat = flatten_dict(params, sep="/")
    for pattern in patterns:
        if not any(pattern.match(path) for path in flat):
            raise UserError(
                f"No parameter matches {pattern.pattern!r} of optimizer.groups; the first "
                f"parameters are {', '.join(list(flat)[:5])}."
            )
    factors = [factor for _, factor in groups]
    chosen = {
        path: next((f for p, f in zip(patterns, factors, strict=True) if p.match(path)), 1.0)
        for path in flat
    }
    return unflatten_dict(chosen, sep="/")


def stop_frozen_gradients(params: Any, groups: Sequence[tuple[str, float]]) -> Any:
    """The same parameters, those of groups with the factor 0 without a gradient."""
    if not any(factor == 0 for _, factor in groups):
        return params
    factors = learning_rate_factors(params, groups)
    return jax.tree.map(lambda p, f: p if f else jax.lax.stop_gradient(p), params, factors)


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Clips gradients, then Adam at the scheduled learning rate with a factor for each group.

    Frozen parameters have no optimizer state. Options that are off add nothing to it.
    """
    factors = {1.0, *(factor for _, factor in config.groups)}

    def adam(factor: float) -> optax.GradientTransformation:
        if factor == 0:
            return optax.set_to_zero()
        decay = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
        scale = [optax.scale(factor)] if factor != 1 else []
        return optax.chain(optax.scale_by_adam(), *decay, *scale)

    def labels(params):
        return jax.tree.map(_group_label, learning_rate_factors(params, config.groups))

    return optax.chain(
        *([optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []),
        optax.clip(config.clip_value),
        optax.multi_transform({_group_label(factor): adam(factor) for factor in factors}, labels),
        optax.scale_by_learning_rate(learning_rate_schedule(config, steps)),
    )


def _group_label(factor: float) -> str:
    return f"factor_{factor:g}"

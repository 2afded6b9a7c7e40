"""Learning rate over the steps, and the optimizer (OCLR, supplement, section A.3; RAFT)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class OptimizerConfig:
    """Adam with a linear warm-up and a decay; the default is the OCLR paper's."""

    learning_rate: float = 5e-5  # after the warm-up
    warmup_steps: int = 40_000  # linear; the first step already moves
    decay: Literal["halving", "cosine", "linear"] = "halving"
    halve_every: int = 80_000  # steps between halvings, counted from step 0
    max_halvings: int = 9  # then the rate stays
    final_fraction: float = 0.01  # of the rate, at the end of cosine and linear decay
    clip_value: float = 5.0  # bound on every component of the gradient
    clip_norm: float = 0.0  # bound on the norm of the whole gradient, before that; 0: none
    weight_decay: float = 0.0  # of all parameters, apart from the gradient as in AdamW
    unet_factor: float = 1.0  # rate of the U-Net's parameters over that of the transformer's


def learning_rate(
    config: OptimizerConfig, steps: int
) -> Callable[[Int[Array, ""] | int], Float[Array, ""]]:
    """The rate at a step, counted from 0, of a training of `steps` steps.

    The warm-up multiplies the decay, and reaches the full rate at step `warmup_steps - 1`. (The
    released program runs its first two steps at the full rate, a slip that is not copied.)
    """

    def rate(step):
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

    return rate


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """Gradients clipped, then Adam at the scheduled rate, that of the U-Net apart.

    What a configuration leaves out adds nothing to the optimizer's state.
    """

    def is_unet(params):
        return {name: name.startswith("unet") for name in params}

    return optax.chain(
        *([optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []),
        optax.clip(config.clip_value),
        optax.scale_by_adam(),
        *([optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []),
        optax.masked(optax.scale(config.unet_factor), is_unet),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )

"""Everything that a training step carries from one step to the next."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax


@flax.struct.dataclass
class TrainState:
    """A pytree of arrays; saved and restored whole.

    The fields are not typed more closely, because transformations put other leaves there.

    step: int32 scalar, steps done, and so the index of the next batch and of the next random key.
    params: nested dict of float32 arrays.
    opt_state: the optimizer's.
    average: exponential moving average of the parameters, or None where it is off.
    """

    step: Any
    params: Any
    opt_state: Any
    average: Any

    @property
    def best_params(self) -> Any:
        """What is evaluated and exported: the average where there is one."""
        return self.params if self.average is None else self.average


def init_state(params: Any, optimizer: optax.GradientTransformation, ema: bool) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        average=jax.tree.map(jnp.copy, params) if ema else None,
    )

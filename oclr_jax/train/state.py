"""What a training step carries to the next one, and where a training starts."""

import json
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from oclr_jax.errors import UserError
from oclr_jax.files import replacing
from oclr_jax.train.checkpoints import load_checkpoint_variables
from oclr_jax.train.processes import is_lead, print_once
from oclr_jax.train.task import Task, Variables

# In a workdir: the checkpoints, and the provenance of the weights that the training started from.
CHECKPOINTS, ORIGIN = "checkpoints", "started_from.json"


@flax.struct.dataclass
class TrainState:
    """A pytree of arrays, saved and restored as a whole.

    The fields have no closer types, because transformations put other leaves there.

    step: int32 scalar, the number of steps done: the index of the next batch and random key.
    params: nested dict of float32 arrays.
    opt_state: the optimizer's state.
    model_state: of the model, such as batch statistics; {} without any.
    ema_params: exponential moving average of the parameters, or None where it is off.
    """

    step: Any
    params: Any
    opt_state: Any
    model_state: Any
    ema_params: Any

    def eval_variables(self, frozen: Any) -> Variables:
        """What is evaluated and exported: the averaged parameters where there are any.

        Batch statistics are moving averages already, and are taken as they are.
        """
        params = self.params if self.ema_params is None else self.ema_params
        return Variables(params, self.model_state, frozen)


def init_state(
    variables: Variables, optimizer: optax.GradientTransformation, ema: bool
) -> TrainState:
    """The state before the first step. It shares the arrays of `variables`."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables.params,
        opt_state=optimizer.init(variables.params),
        model_state=variables.model_state,
        ema_params=jax.tree.map(jnp.copy, variables.params) if ema else None,
    )


def warm_start(
    config: ConfigDict, task: Task, variables: Variables
) -> tuple[Variables, dict[str, Any] | None]:
    """Replaces initial values by those of `config.init_weights`, where name and shape agree.

    So weights of other widths, or with another number of layers, initialise what they share.

    Returns:
      the variables, and the provenance of the weights with a list of the parameters that stay
      random; None where `config.init_weights` is empty.

    Raises:
      UserError: the weights cannot be read, or share no parameter with the model.
    """
    path = config.init_weights
    if not path:
        return variables, None
    try:
        if (epath.Path(path) / CHECKPOINTS).is_dir():
            given, step = load_checkpoint_variables(epath.Path(path) / CHECKPOINTS)
            card = {"weights": path, "steps": step}
        else:
            loaded, card = task.load_weights(path)
            given = {"params": loaded.params, "model_state": loaded.model_state}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); check --config.init_weights.") from error
    ours = {"params": variables.params, "model_state": variables.model_state}
    given, ours = flatten_dict(given, sep="/"), flatten_dict(ours, sep="/")
    shared = {
        name: jnp.asarray(value)
        for name, value in given.items()
        if name in ours and ours[name].shape == value.shape
    }
    found = [name for name in shared if name.startswith("params/")]
    if not found:
        raise UserError(
            f"{path} has no parameter with the name and shape of one of this model; check "
            "--config.init_weights."
        )
    random = sorted(name for name in ours.keys() - shared if name.startswith("params/"))
    random = [name.removeprefix("params/") for name in random]
    if random:
        print_once(f"{len(found)} parameters come from {path}, {len(random)} are random: {random}")
    merged = unflatten_dict(ours | shared, sep="/")
    merged = variables._replace(**{"model_state": {}, **merged})
    return merged, {"random": random, **card}


def write_origin(workdir: epath.Path, origin: dict[str, Any] | None) -> None:
    """Keeps the provenance of a warm start for the exported weights."""
    if origin is not None and is_lead():
        with replacing(workdir / ORIGIN) as temporary:
            temporary.write_text(json.dumps(origin, indent=2))

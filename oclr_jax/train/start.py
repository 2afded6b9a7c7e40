"""Where a training begins: at its newest state, at given weights, or at random parameters."""

import json
from typing import Any

import jax.numpy as jnp
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict

from oclr_jax.train.checkpoints import TrainStates, load_params
from oclr_jax.train.devices import Devices, is_lead, say
from oclr_jax.train.state import TrainState, init_state
from oclr_jax.train.task import Task

# In a workdir: the states, and the card of the weights that the training started from.
STATES, ORIGIN = "checkpoints", "started_from.json"


def first_state(
    config: ConfigDict,
    task: Task,
    optimizer: Any,
    states: TrainStates,
    origin: epath.Path,
    devices: Devices,
    before: int | None = None,
) -> TrainState:
    """The newest saved state, or that before the first step.

    Args:
      origin: file that keeps the card of weights that a training starts from.
      before: only saved states of smaller steps count.
    """

    def begin(params):
        # As a restored state is, so that a resumed training runs the program compiled before.
        return devices.replicate(init_state(params, optimizer, config.ema_decay > 0))

    params = task.init_params(config.seed)
    state = states.restore_newest(begin(params), before)
    if state is None and config.init_weights:
        params = _warm_start(params, task, config.init_weights, origin)
    return begin(params) if state is None else state


def _warm_start(params: Any, task: Task, path: str, origin: epath.Path) -> Any:
    """`params` with those values in the file or workdir `path` that have their name and shape.

    So weights of other widths, or for another number of layers, start what they share. What stays
    random is printed and kept, with the card of the weights, in the file `origin`.
    """
    if (epath.Path(path) / STATES).is_dir():
        theirs, step = load_params(epath.Path(path) / STATES)
        card = {"weights": path, "steps": step}
    else:
        theirs, card = task.load_params(path)
    theirs, ours = flatten_dict(theirs, sep="/"), flatten_dict(params, sep="/")
    shared = {
        name: jnp.asarray(value)
        for name, value in theirs.items()
        if name in ours and ours[name].shape == value.shape
    }
    new = sorted(ours.keys() - shared)
    if new:
        say(f"{len(shared)} parameters come from {path}, {len(new)} start random: {new}")
    if is_lead():
        origin.write_text(json.dumps({"random": new, **card}, indent=2))
    return unflatten_dict(ours | shared, sep="/")

"""Ten steps in different ways on the devices that there are; what each way gave goes into a file.

A program of its own, because the number of devices is fixed when jax starts:
`python tests/train/ten_steps.py OUT.npz`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from oclr_jax.models.oclr import OCLR, OCLRConfig
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.devices import AXIS, Devices
from oclr_jax.train.state import init_state
from oclr_jax.train.step import make_train_step
from oclr_jax.train.tasks.segmentation import Segmentation
from tests.train.squares import squares

STEPS, CLIPS = 10, 16
# name: (parallel, devices, accumulate)
WAYS = {
    "one": ("jit", 1, 1),
    "jit": ("jit", 8, 1),
    "pmap": ("pmap", 8, 1),
    "jit_accumulated": ("jit", 8, 2),
}
MODEL = OCLRConfig(
    channels=(4, 8), heads=2, feedforward=8, encoder_layers=1, decoder_layers=1, dropout=0.2
)
TASK = Segmentation(OCLR(MODEL), LossWeights(modal=0.1, query=0.5))


def clips(step: int) -> dict[str, np.ndarray]:
    """A batch whose clips differ in how long their outlines are: some show nothing at all."""
    batch = squares(step, CLIPS, 2, 16, 16)
    for clip in range(0, CLIPS, 3):
        batch["amodal"][clip] = batch["modal"][clip] = 0
    return batch


def ten_steps(params, parallel: str, count: int, accumulate: int) -> dict[str, np.ndarray]:
    """Metrics of every step and the parameters after the last.

    Plain gradient descent: Adam would not feel a gradient that is eight times too large.
    """
    devices = Devices(Mesh(np.array(jax.devices()[:count]), (AXIS,)), parallel)
    optimizer = optax.sgd(0.3)
    ways = {"accumulate": accumulate, "axis_name": devices.axis_name}
    step = devices.compile(make_train_step(TASK, optimizer, seed=0, **ways))
    state = devices.replicate(init_state(params, optimizer, ema=False))
    rows = []
    for index in range(STEPS):
        state, metrics = step(state, devices.shard(clips(index)))
        rows.append({name: float(value) for name, value in metrics.items()})
    params = flatten_dict(jax.device_get(state.params), sep="/")
    return {f"metrics/{name}": np.array([row[name] for row in rows]) for name in rows[0]} | params


if __name__ == "__main__":
    start = jax.device_get(TASK.init_params(0))
    given = {way: ten_steps(start, *WAYS[way]) for way in sys.argv[2:] or WAYS}
    np.savez(sys.argv[1], **{f"{way}:{n}": x for way, r in given.items() for n, x in r.items()})

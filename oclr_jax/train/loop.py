"""The training loop: the only one."""

import dataclasses
import itertools
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from tqdm import tqdm

from oclr_jax.checkpoints.train_state import TrainStates
from oclr_jax.checkpoints.weights import WeightsInfo, load_weights, save_weights
from oclr_jax.errors import UserError
from oclr_jax.models.oclr import OCLR, OCLRConfig, param_count
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.devices import Devices, add_up, is_lead, on_this_process, open_devices
from oclr_jax.train.journal import Journal
from oclr_jax.train.page import RunPage
from oclr_jax.train.phases import Phases
from oclr_jax.train.profiling import StepTrace
from oclr_jax.train.schedule import OptimizerConfig, learning_rate, make_optimizer
from oclr_jax.train.state import TrainState, init_params, init_state
from oclr_jax.train.step import SUMS, make_eval_step, make_train_step, means
from oclr_jax.train.strips import drawn_steps, image_strip, read_strip, write_strip
from oclr_jax.train.utilisation import machine_use, training_flops
from oclr_jax.types import Batch

# Card of the weights that a training started from, in its workdir.
ORIGIN = "started_from.json"


@dataclasses.dataclass(frozen=True)
class Data:
    """What the loop trains on, and what the exported weights record of it.

    batches: from a step on, this process's part of the batches of that step and of all later ones:
      the position in the data is the step, so that a resumed training sees what the uninterrupted
      one does. The parts of all processes, in their order, are the whole batch.
    validation: one pass over this process's validation clips, a clip per batch: the first has clips
      0, n, 2n, ... of n processes, and so on.
    version: of the training data.
    flow: settings of the estimator whose flow the data holds.
    """

    batches: Callable[[int], Iterable[Batch]]
    validation: Callable[[], Iterable[Batch]]
    version: str
    flow: dict[str, Any]


def model_config(config: ConfigDict) -> OCLRConfig:
    """The model of a training configuration, "auto" precision resolved for this machine."""
    values = config.model.to_dict()
    if values["compute_dtype"] == "auto":
        values["compute_dtype"] = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return OCLRConfig(**values)


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    data: Data,
    *,
    command: str = "",
    profile: bool = False,
) -> TrainState:
    """Trains, from the newest state in `workdir` if there is one.

    Runs on all devices of all processes, each of which calls this; `config.parallel` says how. The
    states are written by all, everything else by the first process alone.

    Writes into `workdir`: `checkpoints/`, `config.json`, `metrics.jsonl`, `tensorboard/`,
    `strips/`, `curves.png`, the page `report.html`, and after each evaluation
    `weights.safetensors`, with `weights_best.safetensors` of the best modal J so far;
    `started_from.json` where the training starts from other weights.

    Args:
      config: as configs/oclr_flow.py makes it.
      data: training and validation batches.
      command: how this training was started, for the card of the weights.
      profile: trace a few steps into `workdir/profile` (see `oclr_jax.train.profiling`).

    Returns:
      the last state; its step is below `config.steps` where an interrupt ended the training early.

    Raises:
      UserError: the loss is not finite, the state in `workdir` does not fit the configuration, or
        the batch does not fit the devices.
    """
    devices = open_devices(config.parallel, config.batch_size, config.accumulate)
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    model = OCLR(model_config(config))
    weights = LossWeights(**config.loss)
    optimizer_config = OptimizerConfig(**config.optimizer)
    optimizer = make_optimizer(optimizer_config, config.steps)
    states = TrainStates(workdir / "checkpoints", config.keep_checkpoints)
    state = _first_state(config, model, optimizer, states, workdir / ORIGIN, devices)
    step = make_train_step(
        model,
        weights,
        optimizer,
        seed=config.seed,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        axis_name=devices.axis_name,
    )
    run = _Run(
        config=config,
        workdir=workdir,
        data=data,
        command=command,
        model=model,
        devices=devices,
        states=states,
        journal=Journal(workdir, int(state.step), keeps=is_lead()),
        rate=learning_rate(optimizer_config, config.steps),
        train_step=devices.compile(step),
        eval_step=jax.jit(make_eval_step(model, weights)),
        flops=training_flops(model, config.batch_size),
        trace=StepTrace(workdir / "profile") if profile and is_lead() else None,
        page=RunPage(config, workdir, command),
        phases=Phases(),
    )
    if is_lead():
        (workdir / "config.json").write_text(config.to_json_best_effort(indent=2))
    try:
        return run.to_the_end(state)
    finally:
        run.journal.close()
        states.close()
        if run.trace:
            run.trace.close()


def _first_state(
    config: ConfigDict,
    model: nn.Module,
    optimizer: Any,
    states: TrainStates,
    origin: epath.Path,
    devices: Devices,
):
    """The newest saved state, or that before the first step.

    The card of weights that a training starts from is kept in the file `origin`.
    """
    latest = states.latest_step()
    params = init_params(model, config.seed)
    if latest is None and config.init_weights:
        params = _warm_start(params, config.init_weights, origin)
    # Placed as a restored state is, so that a resumed training runs the program compiled before.
    state = devices.replicate(init_state(params, optimizer, config.ema_decay > 0))
    return state if latest is None else states.restore(latest, state)


def _warm_start(params: Any, path: str, origin: epath.Path) -> Any:
    """`params` with the values of those in the file `path` that have their name and their shape.

    So weights of other widths, or for another number of layers, start what they share. What stays
    random is printed and kept, with the card of the weights, in the file `origin`.
    """
    theirs, info = load_weights(path)
    theirs, ours = flatten_dict(theirs, sep="/"), flatten_dict(params, sep="/")
    shared = {
        name: jnp.asarray(value)
        for name, value in theirs.items()
        if name in ours and ours[name].shape == value.shape
    }
    new = sorted(ours.keys() - shared)
    if new:
        _say(f"{len(shared)} parameters come from {path}, {len(new)} start random: {new}")
    if is_lead():
        origin.write_text(json.dumps({"weights": info.name, "random": new, **info.card}, indent=2))
    return unflatten_dict(ours | shared, sep="/")


def _say(text: str) -> None:
    """Prints a line, once for all processes."""
    if is_lead():
        tqdm.write(text)


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets; a second Ctrl-C interrupts at once, as usual."""
    stop = threading.Event()

    def on_signal(*_):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        print("\nStopping after this step; Ctrl-C again stops at once.", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@dataclasses.dataclass
class _Run:
    """A training under way: what `train` put together."""

    config: ConfigDict
    workdir: epath.Path
    data: Data
    command: str
    model: nn.Module
    devices: Devices
    states: TrainStates
    journal: Journal
    rate: Callable
    train_step: Callable
    eval_step: Callable
    flops: int  # of convolutions and matrix products, in a training step
    trace: StepTrace | None
    page: RunPage
    phases: Phases

    def to_the_end(self, state: TrainState) -> TrainState:
        """Steps until `config.steps` or Ctrl-C; the last state is saved and, at the end, scored."""
        config, start = self.config, int(state.step)
        _say(
            f"{config.name}: {param_count(state.params):,} parameters on {self.devices}, "
            f"step {start} of {config.steps}"
        )
        shown = is_lead() and sys.stderr.isatty()
        bar = tqdm(total=config.steps, initial=start, unit="step", disable=not shown)
        with _interrupts() as stop, bar:
            window = _Window(start, self.devices.shard)
            batches = iter(self.data.batches(start))
            batch = window.next_batch(batches) if start < config.steps else None
            for step in range(start + 1, config.steps + 1):
                if self.trace:
                    self.trace.before_step()
                with self.phases.time("compile", when=step == start + 1):
                    state, metrics = self.train_step(state, batch)
                if self.trace:
                    self.trace.after_step(state)
                # The device works while the next batch is fetched and sent.
                batch = window.next_batch(batches) if step < config.steps else None
                window.add(step, metrics)
                bar.update()
                last = step == config.steps or stop.is_set()
                if last or step % config.log_every == 0:
                    values = window.close() | self.phases.take()
                    values["learning_rate"] = float(self.rate(step - 1))
                    values |= machine_use(self.flops * values["steps_per_s"])
                    self.journal.write("train", step, values)
                    bar.set_postfix(loss=f"{values['loss']:.4f}", refresh=False)
                # The last evaluation comes before the last save: with the state of the last step on
                # disk, all that a training leaves is there.
                if step % config.evaluate_every == 0 or step == config.steps:
                    window.check()
                    with self.phases.time("evaluation"), window.paused():
                        self.evaluate(step, state)
                if last or step % config.checkpoint_every == 0:
                    window.check()
                    with self.phases.time("checkpoint"):
                        self.states.save(step, state)
                # Not `stop`: Ctrl-C may have come since, and this step was not saved.
                if last:
                    break
            close = getattr(batches, "close", None)
            if close:
                close()
        if is_lead():
            self.page.write(int(state.step), self.journal, self.phases)
        return state

    def evaluate(self, step: int, state: TrainState) -> None:
        """Scores the validation clips, and writes strips, curves, page and weights."""
        # Every process scores its own clips, on one of its devices.
        params, began = on_this_process(state.best_params), time.monotonic()
        sums = dict.fromkeys(SUMS, 0.0)
        for index, batch in enumerate(itertools.islice(self.data.validation(), self.own_clips)):
            clip_sums, masks = self.eval_step(params, batch)
            for name, value in clip_sums.items():
                sums[name] += float(value)
            clip = jax.process_index() + index * jax.process_count()
            if clip in self.config.strips:
                strip = image_strip(batch, jax.tree.map(np.asarray, masks))
                write_strip(self.workdir, clip, step, strip)
        # Every process has drawn its strips when the sums of all are there.
        sums = add_up(sums)
        if not sums["loss_count"]:
            raise UserError("The validation set is empty: generate one, or choose another.")
        if is_lead():
            self.report(step, params, means(sums) | {"seconds": time.monotonic() - began})

    @property
    def own_clips(self) -> int | None:
        """How many of the first `validation_clips` clips are this process's; None: all it has."""
        limit = self.config.validation_clips
        return len(range(jax.process_index(), limit, jax.process_count())) if limit else None

    def report(self, step: int, params: Any, scores: dict[str, float]) -> None:
        """Writes what an evaluation found, and the weights."""
        best = self.journal.best("modal_j")
        self.journal.write("validation", step, scores)
        for clip in self.config.strips:
            if step in drawn_steps(self.workdir, clip):
                strip = read_strip(self.workdir, clip, step)
                self.journal.image(f"validation/clip_{clip}", step, strip)
        self.page.write(step, self.journal, self.phases)
        self.export("weights.safetensors", step, params, scores)
        if scores.get("modal_j", -math.inf) > best:
            self.export("weights_best.safetensors", step, params, scores)
        text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        _say(f"step {step}: {text}")

    def export(self, filename: str, step: int, params: Any, scores: dict[str, float]) -> None:
        """Writes self-describing weights; precision and memory switches of training stay here."""
        model = dataclasses.replace(self.model.config, compute_dtype="float32", remat=False)
        card = {
            "steps": step,
            "seed": self.config.seed,
            "command": self.command,
            "validation": scores,
            "config": json.loads(self.config.to_json_best_effort()),
        }
        if (self.workdir / ORIGIN).exists():
            card["started_from"] = json.loads((self.workdir / ORIGIN).read_text())
        info = WeightsInfo(
            model=model,
            flow=self.data.flow,
            data_version=self.data.version,
            name=self.config.name,
            card=card,
        )
        params = jax.tree.map(np.asarray, params)
        path = os.fspath(self.workdir / filename)
        save_weights(path, params, info, dtype=self.config.export_dtype)


class _Window:
    """The steps since the last log: their metrics, their time, and the wait for data.

    Metrics stay on the device until they are needed, one step late, so that the device never waits
    for the host.
    """

    def __init__(self, step: int, place: Callable[[Batch], dict[str, jax.Array]]):
        self._place = place
        self._step, self._unchecked, self._metrics, self._wait = step, None, [], 0.0
        self._began = time.monotonic()

    def next_batch(self, batches: Iterator[Batch]) -> Batch:
        """Takes the next batch and starts sending it to the devices."""
        began = time.monotonic()
        try:
            batch = next(batches)
        except StopIteration:
            raise UserError("The training data ended before the training did.") from None
        self._wait += time.monotonic() - began
        return self._place(batch)

    def add(self, step: int, metrics: dict) -> None:
        """Notes a step that was started, and looks at the one before."""
        self.check()
        self._step, self._unchecked = step, metrics
        self._metrics.append(metrics)

    def check(self) -> None:
        """Raises UserError if the newest step noted has a loss or a gradient that is not finite."""
        if self._unchecked is None:
            return
        values = {name: float(self._unchecked[name]) for name in ("loss", "grad_norm")}
        if not all(map(math.isfinite, values.values())):
            raise UserError(
                f"Training stopped at step {self._step}: the loss is {values['loss']} and the "
                f"gradient's norm {values['grad_norm']}; go on from the last checkpoint with a "
                "lower learning rate, or look at that step's data."
            )
        self._unchecked = None

    def close(self) -> dict[str, float]:
        """Means of the metrics and rates since the last log; begins a new window."""
        self.check()
        count = len(self._metrics)
        values = {n: float(np.mean([m[n] for m in self._metrics])) for n in self._metrics[0]}
        seconds = time.monotonic() - self._began
        values |= {"steps_per_s": count / seconds, "data_wait": self._wait / seconds}
        values |= {"seconds": seconds, "seconds_data_wait": self._wait}
        self._metrics, self._began, self._wait = [], time.monotonic(), 0.0
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is left out of the rates."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

"""The training loop: the only one."""

import dataclasses
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from oclr_jax.errors import UserError
from oclr_jax.models.parameters import param_count
from oclr_jax.train.checkpoints import TrainStates
from oclr_jax.train.devices import Devices, add_up, is_lead, on_this_process, open_devices, say
from oclr_jax.train.interrupts import Stop
from oclr_jax.train.nonfinite import NonFiniteSteps
from oclr_jax.train.record.journal import Journal
from oclr_jax.train.record.page import RunPage
from oclr_jax.train.record.phases import Phases
from oclr_jax.train.record.profiling import StepTrace
from oclr_jax.train.record.strips import drawn_steps, read_strip, write_strip
from oclr_jax.train.record.utilisation import machine_use
from oclr_jax.train.schedule import OptimizerConfig, learning_rate, make_optimizer
from oclr_jax.train.settings import check_no_states_lost, check_settings, in_steps, keep_settings
from oclr_jax.train.start import ORIGIN, STATES, first_state
from oclr_jax.train.state import TrainState
from oclr_jax.train.step import make_train_step, means
from oclr_jax.train.task import Task
from oclr_jax.train.tasks import open_task
from oclr_jax.types import AnyBatch


@dataclasses.dataclass(frozen=True)
class Data:
    """What the loop trains on, and what the exported weights record of it.

    batches: from a step on, this process's part of the batches of that step and of all later ones:
      the position in the data is the step, so that a resumed training sees what the uninterrupted
      one does. The parts of all processes, in their order, are the whole batch.
    validation: one pass over this process's validation clips (or pairs), one per batch: the first
      has clips 0, n, 2n, ... of n processes, and so on.
    version: of the training data.
    flow: settings of the estimator whose flow the data holds.
    samples: what the batch of a step is made of, in words.
    """

    batches: Callable[[int], Iterable[AnyBatch]]
    validation: Callable[[], Iterable[AnyBatch]]
    version: str
    flow: dict[str, Any]
    samples: Callable[[int], str] = lambda step: ""


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    data: Data,
    *,
    command: str = "",
    stop: Stop | None = None,
    profile: bool = False,
) -> TrainState:
    """Trains, from the newest state in `workdir` if there is one.

    Runs on all devices of all processes, each of which calls this; `config.parallel` says how. The
    states are written by all, everything else by the first process alone.

    Ctrl-C and SIGTERM save the state and end it. A step whose loss or gradient is not finite
    changes no parameters; `config.on_nonfinite` says whether the training goes on.

    Writes into `workdir`: `checkpoints/`, `config.json`, `metrics.jsonl`, `tensorboard/`,
    `strips/`, `curves.png`, the page `report.html`, and after each evaluation
    `weights.safetensors`, with `weights_best.safetensors` of the best score so far (modal J, or
    end-point error);
    `started_from.json` where the training starts from other weights.

    Args:
      config: as configs/oclr_flow.py or configs/raft.py makes it; its `task` says what is learned.
      data: training and validation batches.
      command: how this training was started, for the card of the weights.
      stop: tells afterwards which signal came.
      profile: trace a few steps into `workdir/profile` (see `oclr_jax.train.record.profiling`).

    Returns:
      the last state; it is not that of the last step where an interrupt ended the training early.

    Raises:
      UserError: the loss is not finite, the workdir was begun with other settings, its states
        cannot be read, the batch does not fit the devices, the data fails, or something cannot be
        written.
    """
    try:
        return _train(config, workdir, data, command, profile, stop or Stop())
    except OSError as error:
        raise UserError(
            f"The training in {workdir} cannot write ({error}); make room there and give the same "
            "command again: it goes on from the newest state."
        ) from error


def _train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    data: Data,
    command: str,
    profile: bool,
    stop: Stop,
) -> TrainState:
    """See `train`."""
    config = in_steps(config)
    devices = open_devices(config.parallel, config.batch_size, config.accumulate)
    task = open_task(config)
    workdir = epath.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    optimizer_config = OptimizerConfig(**config.optimizer)
    optimizer = make_optimizer(optimizer_config, config.steps)
    nonfinite = NonFiniteSteps(
        workdir, data.batches, data.samples, config.on_nonfinite, config.max_skips
    )
    states = TrainStates(workdir / STATES, config.keep_checkpoints, config.keep_best)
    if states.latest_step() is None:
        check_no_states_lost(workdir)
    else:
        check_settings(config, workdir / "config.json")
    state = first_state(config, task, optimizer, states, workdir / ORIGIN, devices)
    run = _Run(
        config=config,
        workdir=workdir,
        data=data,
        command=command,
        task=task,
        devices=devices,
        states=states,
        journal=Journal(workdir, int(state.step), keeps=is_lead()),
        rate=learning_rate(optimizer_config, config.steps),
        train_step=compiled_step(config, task, optimizer, devices),
        eval_step=jax.jit(task.evaluate),
        nonfinite=nonfinite,
        stop=stop,
        flops=task.step_flops(config.batch_size),
        trace=StepTrace(workdir / "profile") if profile and is_lead() else None,
        page=RunPage(config, workdir, command, task.curves),
        phases=Phases(),
    )
    if is_lead():
        keep_settings(config, workdir / "config.json")
    with ExitStack() as stack:
        stack.callback(run.journal.close)
        stack.callback(states.close)
        if run.trace:
            stack.callback(run.trace.close)
        return run.to_the_end(state)


def compiled_step(
    config: ConfigDict, task: Task, optimizer: Any, devices: Devices
) -> Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]]:
    """The training step of a configuration; it uses the memory of the state it is given."""
    step = make_train_step(
        task,
        optimizer,
        seed=config.seed,
        ema_decay=config.ema_decay,
        accumulate=config.accumulate,
        axis_name=devices.axis_name,
    )
    return devices.compile(step)


@dataclasses.dataclass
class _Run:
    """A training under way: what `train` put together."""

    config: ConfigDict
    workdir: epath.Path
    data: Data
    command: str
    task: Task
    devices: Devices
    states: TrainStates
    journal: Journal
    rate: Callable
    train_step: Callable
    eval_step: Callable
    nonfinite: NonFiniteSteps
    stop: Stop
    flops: int  # of convolutions and matrix products, in a training step
    trace: StepTrace | None
    page: RunPage
    phases: Phases

    def to_the_end(self, state: TrainState) -> TrainState:
        """Steps until `config.steps` or a signal; saves the last state, at the end scored."""
        config, start = self.config, int(state.step)
        say(
            f"{config.name}: {param_count(state.params):,} parameters on {self.devices}, "
            f"step {start} of {config.steps}"
        )
        shown = is_lead() and sys.stderr.isatty()
        bar = tqdm(total=config.steps, initial=start, unit="step", disable=not shown)
        batches = iter(self.data.batches(start))
        with self.stop.listening(), bar, _closing(batches):
            window = _Window(start, self.devices.shard, self.nonfinite)
            if self.was_cut_short(start):
                self.evaluate(start, state)
            batch = window.next_batch(batches) if start < config.steps else None
            for step in range(start + 1, config.steps + 1):
                if self.trace:
                    self.trace.before_step()
                with self.phases.time("compile", when=step == start + 1):
                    state, metrics = self.train_step(state, batch)
                if self.trace:
                    self.trace.after_step(state)
                # The device works while the next batch is fetched and sent.
                try:
                    batch = window.next_batch(batches) if step < config.steps else None
                except UserError:
                    window.add(step, metrics)
                    self.save_before_failing(step, state, window)
                    raise
                window.add(step, metrics)
                bar.update()
                last = step == config.steps or self.stop.after(step)
                if last or step % config.log_every == 0:
                    values = window.close() | self.phases.take()
                    values["learning_rate"] = float(self.rate(step - 1))
                    values |= machine_use(self.flops * values["steps_per_s"])
                    self.journal.write("train", step, values)
                    bar.set_postfix(loss=f"{values.get('loss', math.nan):.4f}", refresh=False)
                # The last evaluation comes before the last save: with the state of the last step on
                # disk, all that a training leaves is there.
                score = None
                if self.is_due(step):
                    window.check()
                    with self.phases.time("evaluation"), window.paused():
                        try:
                            score = self.evaluate(step, state)
                        except UserError:
                            self.save_before_failing(step, state, window)
                            raise
                    last = last or self.stop.at_once
                best = self.is_due(step) and config.keep_best > 0
                if last or best or step % config.checkpoint_every == 0:
                    window.check()
                    with self.phases.time("checkpoint"):
                        self.states.save(step, state, score)
                # Not `stop`: a signal may have come since, and this step was not saved.
                if last:
                    break
        if is_lead():
            self.page.write(int(state.step), self.journal, self.phases)
        return state

    def is_due(self, step: int) -> bool:
        """Whether the evaluation after this step belongs to the training."""
        return step > 0 and (step % self.config.evaluate_every == 0 or step == self.config.steps)

    def was_cut_short(self, step: int) -> bool:
        """Whether a signal ended the training in the middle of this step's evaluation."""
        single = jax.process_count() == 1
        return single and self.is_due(step) and not self.journal.has("validation", step)

    def save_before_failing(self, step: int, state: TrainState, window: "_Window") -> None:
        """Saves what is done where the data fails; a single process cannot do so for several."""
        if jax.process_count() == 1:
            window.check()
            self.states.save(step, state)

    def evaluate(self, step: int, state: TrainState) -> float | None:
        """Scores the validation clips, writes strips, page and weights; gives their `goodness`.

        A signal cuts it short; then nothing is written but strips.
        """
        # Every process scores its own clips, on one of its devices.
        params, began = on_this_process(state.best_params), time.monotonic()
        sums = {f"{score}_{part}": 0.0 for score in self.task.scores for part in ("sum", "count")}
        for index, batch in enumerate(itertools.islice(self.data.validation(), self.own_clips)):
            if self.stop.at_once:
                return None
            clip_sums, shown = self.eval_step(params, batch)
            for name, value in clip_sums.items():
                sums[name] += float(value)
            clip = jax.process_index() + index * jax.process_count()
            if clip in self.config.strips:
                strip = self.task.picture(batch, jax.tree.map(np.asarray, shown))
                write_strip(self.workdir, clip, step, strip)
        # Every process has drawn its strips when the sums of all are there.
        sums = add_up(sums)
        if not any(sums[f"{score}_count"] for score in self.task.scores):
            raise UserError("The validation set is empty: generate one, or choose another.")
        scores = means(sums)
        if is_lead():
            self.report(step, params, scores | {"seconds": time.monotonic() - began})
        return self.goodness(scores)

    def goodness(self, scores: dict[str, float]) -> float | None:
        """The task's best score, turned such that higher is better; None where there is none."""
        value = scores.get(self.task.best_score)
        return value if value is None or self.task.higher_is_better else -value

    @property
    def own_clips(self) -> int | None:
        """How many of the first `validation_clips` clips are this process's; None: all it has."""
        limit = self.config.validation_clips
        return len(range(jax.process_index(), limit, jax.process_count())) if limit else None

    def report(self, step: int, params: Any, scores: dict[str, float]) -> None:
        """Writes what an evaluation found, and the weights."""
        name = self.task.best_score
        before = [self.goodness({name: x}) for x in self.journal.scores(name)]
        self.journal.write("validation", step, scores)
        for clip in self.config.strips:
            if step in drawn_steps(self.workdir, clip):
                strip = read_strip(self.workdir, clip, step)
                self.journal.image(f"validation/clip_{clip}", step, strip)
        self.page.write(step, self.journal, self.phases)
        self.export("weights.safetensors", step, params, scores)
        good = self.goodness(scores)
        if good is not None and good > max(before, default=-math.inf):
            self.export("weights_best.safetensors", step, params, scores)
        text = ", ".join(f"{name} {value:.4f}" for name, value in scores.items())
        say(f"step {step}: {text}")

    def export(self, filename: str, step: int, params: Any, scores: dict[str, float]) -> None:
        """Writes self-describing weights."""
        card = {
            "steps": step,
            "seed": self.config.seed,
            "command": self.command,
            "validation": scores,
            "config": json.loads(self.config.to_json_best_effort()),
        }
        if (self.workdir / ORIGIN).exists():
            card["started_from"] = json.loads((self.workdir / ORIGIN).read_text())
        params = jax.tree.map(np.asarray, params)
        path = os.fspath(self.workdir / filename)
        about = self.config.name, card, self.data, self.config.export_dtype
        self.task.export(path, params, *about)


@contextmanager
def _closing(batches: Iterator[AnyBatch]) -> Iterator[None]:
    """Ends what makes the batches, worker processes too, however the training ends."""
    try:
        yield
    finally:
        close = getattr(batches, "close", None)
        if close:
            close()


class _Window:
    """The steps since the last log: their metrics, their time, and the wait for data.

    Metrics stay on the device until they are needed, one step late, so that the device never waits
    for the host.
    """

    def __init__(
        self,
        step: int,
        place: Callable[[AnyBatch], dict[str, jax.Array]],
        nonfinite: NonFiniteSteps,
    ):
        self._place = place
        self._nonfinite, self._skipped = nonfinite, 0
        self._step, self._unchecked, self._metrics, self._wait = step, None, [], 0.0
        self._began = time.monotonic()

    def next_batch(self, batches: Iterator[AnyBatch]) -> AnyBatch:
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

    def check(self) -> None:
        """Counts the newest step noted, or skips it; raises UserError where that is too much."""
        if self._unchecked is None:
            return
        metrics, self._unchecked = self._unchecked, None
        if self._nonfinite.look(self._step, float(metrics["loss"]), float(metrics["grad_norm"])):
            self._metrics.append(metrics)
        else:
            self._skipped += 1

    def close(self) -> dict[str, float]:
        """Means of the metrics and rates since the last log; begins a new window."""
        self.check()
        count = len(self._metrics) + self._skipped
        names = self._metrics[0] if self._metrics else ()
        values = {n: float(np.mean([m[n] for m in self._metrics])) for n in names}
        if self._skipped:
            values["skipped"] = self._skipped
        seconds = time.monotonic() - self._began
        values |= {"steps_per_s": count / seconds, "data_wait": self._wait / seconds}
        values |= {"seconds": seconds, "seconds_data_wait": self._wait}
        self._metrics, self._skipped, self._began, self._wait = [], 0, time.monotonic(), 0.0
        return values

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside is left out of the rates."""
        began = time.monotonic()
        yield
        self._began += time.monotonic() - began

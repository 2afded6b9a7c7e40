"""The training loop: the only one."""

import dataclasses
import math
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict
from tqdm import tqdm

from oclr_jax.errors import UserError
from oclr_jax.models.parameters import param_count
from oclr_jax.train.checkpoints import Checkpoints
from oclr_jax.train.data import DataError, TrainingData, read_batches
from oclr_jax.train.devices import Devices, open_devices
from oclr_jax.train.evaluation import Evaluation
from oclr_jax.train.fit import configured_step, run_steps
from oclr_jax.train.interrupts import StopSignal
from oclr_jax.train.nonfinite import NonFiniteSteps
from oclr_jax.train.processes import failing_together, is_lead, print_once
from oclr_jax.train.record.journal import Journal
from oclr_jax.train.record.profiling import StepTrace
from oclr_jax.train.record.report import TrainingReport
from oclr_jax.train.record.timing import MetricsWindow, PhaseTimer
from oclr_jax.train.record.utilisation import machine_use
from oclr_jax.train.schedule import OptimizerConfig, learning_rate_schedule, make_optimizer
from oclr_jax.train.settings import (
    check_no_checkpoints_lost,
    check_unchanged,
    check_values,
    lengths_in_steps,
    write_settings,
)
from oclr_jax.train.state import CHECKPOINTS, TrainState, init_state, warm_start, write_origin
from oclr_jax.train.task import Task, Variables


def train(
    config: ConfigDict,
    workdir: str | os.PathLike,
    task: Task,
    data: TrainingData,
    *,
    command: str = "",
    stop: StopSignal | None = None,
    profile: bool = False,
) -> TrainState:
    """Trains, from the newest checkpoint in `workdir` if there is one.

    Runs on all devices of all processes, each of which calls this function; `config.parallel` is
    the mode. All processes write the checkpoints, the first one everything else.

    Ctrl-C and SIGTERM save the state and end the training. A step whose loss or gradient is not
    finite changes no parameters; `config.on_nonfinite` decides whether the training goes on.

    Writes into `workdir`: `checkpoints/`, `config.json`, `metrics.jsonl`, `tensorboard/`,
    `strips/`, `curves.png` and `report.html`; after each evaluation `weights.safetensors`, and
    `weights_best.safetensors` for the best score so far; and `started_from.json` where the training
    started from other weights.

    Args:
      config: as the files in configs/ return it.
      task: what is trained.
      data: training and validation batches.
      command: how this training was started, recorded in the weights.
      stop: tells afterwards which signal ended the training.
      profile: trace a few steps into `workdir/profile` (see `oclr_jax.train.record.profiling`).

    Returns:
      the last state; not that of the last step where a signal ended the training early.

    Raises:
      UserError: a setting makes no sense or is not that of the workdir, the loss is not finite, the
        checkpoints or the data cannot be read, the batch does not fit the devices, or the workdir
        cannot be written. With several processes the error ends all of them, see
        `failing_together`.
    """
    with failing_together():
        try:
            run = _open_run(config, epath.Path(workdir), task, data, command, profile, stop)
            return _run_and_close(*run)
        except OSError as error:  # Reading data has its own error, see `read_batches`.
            raise UserError(
                f"The workdir {workdir} cannot be used ({error}); make room there, check its "
                "permissions, and give the same command again: it resumes from the newest "
                "checkpoint."
            ) from error


def _open_run(
    config: ConfigDict,
    workdir: epath.Path,
    task: Task,
    data: TrainingData,
    command: str,
    profile: bool,
    stop: StopSignal | None,
) -> tuple["_Run", TrainState]:
    """Checks the settings and puts a training together."""
    config = lengths_in_steps(config)
    check_values(config)
    devices = open_devices(config.parallel, config.batch_size, config.accumulate)
    optimizer = OptimizerConfig(**config.optimizer)
    nonfinite = NonFiniteSteps(workdir, data, config.on_nonfinite, config.max_skips)
    checkpoints, state, frozen = _restore_or_start(config, workdir, task, devices, optimizer)
    timer, journal = PhaseTimer(), Journal(workdir, int(state.step), writes=is_lead())
    report = TrainingReport(config, workdir, command, task.curves)
    run = _Run(
        config=config,
        data=data,
        devices=devices,
        checkpoints=checkpoints,
        journal=journal,
        learning_rate=learning_rate_schedule(optimizer, config.steps),
        step=configured_step(config, task, devices, frozen),
        evaluation=Evaluation(
            config, workdir, task, data, command, journal, report, timer, stop or StopSignal()
        ),
        window=MetricsWindow(nonfinite),
        flops=task.step_flops(config.batch_size),
        trace=StepTrace(workdir / "profile") if profile and is_lead() else None,
        timer=timer,
        frozen=frozen,
    )
    return run, state


def _restore_or_start(
    config: ConfigDict,
    workdir: epath.Path,
    task: Task,
    devices: Devices,
    optimizer: OptimizerConfig,
) -> tuple[Checkpoints, TrainState, Any]:
    """Opens the checkpoints; returns them, the newest state or the initial one, and frozen arrays.

    Where anything is wrong with the settings or the weights to start from, nothing is written.
    """
    resumes = any(path.name.isdigit() for path in (workdir / CHECKPOINTS).glob("*"))
    if resumes:
        check_unchanged(config, workdir / "config.json")
    else:
        check_no_checkpoints_lost(workdir)
    transformation = make_optimizer(optimizer, config.steps)

    def start(variables: Variables) -> TrainState:
        # Placed as a restored state is, so that a resumed training runs the same compiled program.
        return devices.replicate(init_state(variables, transformation, config.ema_decay > 0))

    variables, origin = task.init_variables(config.seed), None
    if not resumes:
        variables, origin = warm_start(config, task, variables)
    state = start(variables)
    workdir.mkdir(parents=True, exist_ok=True)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, config.keep_checkpoints, config.keep_best)
    if resumes:
        state = checkpoints.restore_newest(state)
    if state is None:  # In a bucket, where only an unfinished checkpoint was found.
        variables, origin = warm_start(config, task, variables)
        state = start(variables)
    write_origin(workdir, origin)
    if is_lead():
        write_settings(config, workdir / "config.json")
    return checkpoints, state, devices.replicate(variables.frozen)


def _run_and_close(run: "_Run", state: TrainState) -> TrainState:
    """Runs a training and closes what it writes to."""
    with ExitStack() as stack:
        stack.callback(run.journal.close)
        stack.callback(run.checkpoints.close)
        if run.trace:
            stack.callback(run.trace.close)
        try:
            return run.to_the_end(state)
        except BaseException:
            if jax.process_count() > 1:
                stack.pop_all()  # Closing would wait for the other processes.
            raise


@dataclasses.dataclass
class _Run:
    """A training under way."""

    config: ConfigDict
    data: TrainingData
    devices: Devices
    checkpoints: Checkpoints
    journal: Journal
    learning_rate: Callable
    step: Callable
    evaluation: Evaluation
    window: MetricsWindow
    flops: int  # of convolutions and matrix products, in a training step
    trace: StepTrace | None
    timer: PhaseTimer
    frozen: Any
    compiled: bool = False

    def to_the_end(self, state: TrainState) -> TrainState:
        """Steps until `config.steps` or a signal; the last state is evaluated and saved."""
        config, start, stop = self.config, int(state.step), self.evaluation.stop
        print_once(
            f"{config.name}: {param_count(state.params):,} parameters on {self.devices}, "
            f"step {start} of {config.steps}"
        )
        shown = is_lead() and sys.stderr.isatty()
        bar = tqdm(total=config.steps, initial=start, unit="step", disable=not shown)
        batches = read_batches(self.data.train_batches(start))
        with stop.listening(), bar, closing(batches):
            if self.was_cut_short(start):
                self.evaluation.run(start, state.eval_variables(self.frozen))
            on_devices = map(self.devices.shard, self.window.timed(batches))
            steps = run_steps(self.timed_step, state, on_devices, config.steps - start)
            step = start
            try:
                for step, (state, metrics) in enumerate(steps, start + 1):
                    self.window.add(step, metrics)
                    bar.update()
                    if self.after_step(step, state, bar):
                        break
            except DataError:
                self.save_before_failing(step, state)
                raise
        self.evaluation.write_report(int(state.step))
        return state

    def timed_step(self, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        """The compiled step; the first one waits for compilation."""
        if self.trace:
            self.trace.before_step()
        with self.timer.time("compile", when=not self.compiled):
            state, metrics = self.step(state, batch)
        self.compiled = True
        if self.trace:
            self.trace.after_step(state)
        return state, metrics

    def after_step(self, step: int, state: TrainState, bar: tqdm) -> bool:
        """Logs, evaluates and saves where it is time to; returns whether the training ends."""
        config, stop = self.config, self.evaluation.stop
        last = step == config.steps or stop.stops_after(step)
        if last or step % config.log_every == 0:
            values = self.window.take() | self.timer.take()
            values["learning_rate"] = float(self.learning_rate(step - 1))
            values |= machine_use(self.flops * values["steps_per_s"])
            self.journal.write("train", step, values)
            bar.set_postfix(loss=f"{values.get('loss', math.nan):.4f}", refresh=False)
        # Evaluated before it is saved: with the checkpoint of the last step, everything that a
        # training leaves is there.
        score, evaluates = None, self.evaluation.is_due(step)
        if evaluates:
            self.window.check()
            with self.timer.time("evaluation"), self.window.paused():
                score = self.evaluation.run(step, state.eval_variables(self.frozen))
            last = last or stop.may_interrupt
        best = evaluates and config.keep_best > 0
        if last or best or step % config.checkpoint_every == 0:
            self.window.check()
            with self.timer.time("checkpoint"):
                self.checkpoints.save(step, state, score)
        # Not `stop`: a signal may have come since, and this step was not saved.
        return last

    def was_cut_short(self, step: int) -> bool:
        """Whether a signal ended the training in the middle of this step's evaluation."""
        due = jax.process_count() == 1 and self.evaluation.is_due(step)
        return due and not self.journal.has("validation", step)

    def save_before_failing(self, step: int, state: TrainState) -> None:
        """Saves what is done where data fails; one process cannot save for several."""
        if jax.process_count() == 1 and step > 0:
            self.window.check()
            self.checkpoints.save(step, state)

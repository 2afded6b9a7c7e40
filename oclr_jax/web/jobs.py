"""A queue of commands, of which one runs at a time, each in a process of its own.

The queue is a file, so that a killed server goes on where it was: what ran then runs again, from
its start, because results are written whole or not at all.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from oclr_jax.errors import UserError
from oclr_jax.files import locked_output, write_json
from oclr_jax.video.clip import PROGRESS

WAITING, RUNNING, DONE, FAILED, CANCELLED = "waiting", "running", "done", "failed", "cancelled"
_SCHEMA_VERSION = 1
# Seconds to wait until the process of a killed server has noticed and let go of its folder.
_PATIENCE = 60.0


@dataclass
class Job:
    """One command and how far it is."""

    number: int
    kind: str  # segment or apply
    result: str  # folder of results
    input: str = ""  # the video
    name: str = ""  # as it is shown
    options: tuple[str, ...] = ()  # of the command
    state: str = WAITING
    message: str = ""  # the last sentence of the command
    stage: str = ""
    done: int = 0  # frames of the stage
    total: int | None = None

    def command(self) -> list[str]:
        """The command line."""
        paths = [self.input, self.result] if self.kind == "segment" else [self.result]
        return [sys.executable, "-m", "oclr_jax.cli", self.kind, *paths, *self.options]


class Queue:
    """The jobs of a folder; `start` runs them, oldest first.

    Example:
      >>> queue = Queue(Path("workspace"))
      >>> queue.start()
      >>> queue.add("segment", input="clip.mp4", result="workspace/results/1-clip")
    """

    def __init__(self, folder: Path):
        """Reads the queue of a folder. Raises UserError where its file is broken."""
        self._path = folder / "jobs.json"
        self._jobs: dict[int, Job] = {}
        self._last = 0  # number that was given last; none is given twice, folders are named by them
        self._changed = threading.Condition(threading.RLock())
        self._process: subprocess.Popen | None = None
        self._stopping = False
        self._thread: threading.Thread | None = None
        if self._path.exists():
            self._read()

    def start(self) -> None:
        """Starts the thread that runs jobs."""
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the running command; its job is the first to run after the next start."""
        with self._changed:
            self._stopping = True
            self._end_process()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def jobs(self) -> list[Job]:
        """Copies of all jobs, oldest first."""
        with self._changed:
            return [Job(**asdict(job)) for job in self._jobs.values()]

    def get(self, number: int) -> Job | None:
        """A copy of a job; None where there is none of this number."""
        return next((job for job in self.jobs() if job.number == number), None)

    def take_number(self) -> int:
        """A number for a job that is added later."""
        with self._changed:
            self._last += 1
            return self._last

    def add(
        self, kind: str, result: str, state: str = WAITING, number: int | None = None, **fields
    ) -> Job:
        """Appends a job; `number` is one that was taken for it."""
        with self._changed:
            job = Job(number or self.take_number(), kind, result, state=state, **fields)
            self._jobs[job.number] = job
            self._save()
            self._changed.notify_all()
            return Job(**asdict(job))

    def cancel(self, number: int) -> None:
        """Ends a job that waits or runs; UserError for another."""
        with self._changed:
            job = self._jobs.get(number)
            if job is None or job.state not in (WAITING, RUNNING):
                raise UserError("This job has ended; there is nothing to cancel.")
            running = job.state == RUNNING
            job.state, job.message = CANCELLED, ""
            self._save()
            if running:
                self._end_process()

    def retry(self, number: int) -> None:
        """Lets a job that failed or was cancelled wait again; UserError for another."""
        with self._changed:
            job = self._jobs.get(number)
            if job is None or job.state not in (FAILED, CANCELLED):
                raise UserError("Only a job that failed or was cancelled can be run again.")
            job.state, job.message, job.stage = WAITING, "", ""
            self._save()
            self._changed.notify_all()

    def remove(self, number: int) -> None:
        """Takes a job that has ended off the list; its files stay. UserError for another."""
        with self._changed:
            job = self._jobs.get(number)
            if job is None or job.state in (WAITING, RUNNING):
                raise UserError("Only a job that has ended can be taken off the list.")
            del self._jobs[number]
            self._save()

    def _read(self) -> None:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["schema_version"] != _SCHEMA_VERSION:
                raise ValueError
            last = int(content["last"])
            jobs = [
                Job(**{**entry, "options": tuple(entry["options"])}) for entry in content["jobs"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{self._path} is no list of jobs; remove it.") from error
        for job in jobs:
            job.state = WAITING if job.state == RUNNING else job.state
        self._jobs = {job.number: job for job in jobs}
        self._last = max([last, *self._jobs])

    def _save(self) -> None:
        jobs = [asdict(job) for job in self._jobs.values()]
        content = {"schema_version": _SCHEMA_VERSION, "last": self._last, "jobs": jobs}
        write_json(self._path, content)

    def _work(self) -> None:
        while True:
            with self._changed:
                job = None
                while not self._stopping and job is None:
                    waiting = (job for job in self._jobs.values() if job.state == WAITING)
                    job = next(waiting, None)
                    if job is None:
                        self._changed.wait()
                if self._stopping:
                    return
                job.state, job.stage, job.done, job.total = RUNNING, "starting", 0, None
                job.message = ""
                self._save()
            self._run(job)

    def _run(self, job: Job) -> None:
        lines: list[str] = []
        try:
            _wait_until_free(Path(job.result), lambda: self._stopping or job.state != RUNNING)
            status = self._run_process(job, lines)
        except OSError as error:
            status, lines = 1, [f"oclr: {error.strerror or error}"]
        with self._changed:
            self._process = None
            if job.state != RUNNING:
                return  # cancelled
            if self._stopping:
                job.state = WAITING
            else:
                job.state = DONE if status == 0 else FAILED
                job.message = _last_sentence(lines, status)
            self._save()

    def _run_process(self, job: Job, lines: list[str]) -> int:
        """Runs a command to its end; `lines` takes what it says beside its progress."""
        with self._changed:
            if self._stopping or job.state != RUNNING:
                return 1
            self._process = subprocess.Popen(
                job.command(),
                env={**os.environ, PROGRESS: "json"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        with self._process as process:
            for line in process.stdout:
                report = _progress_of(line)
                if report is None:
                    lines.append(line.strip())
                    del lines[:-50]
                else:
                    with self._changed:
                        job.stage, job.done, job.total = report
        return process.returncode

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.terminate()


def _progress_of(line: str) -> tuple[str, int, int | None] | None:
    """The stage, the frames done and their total of a line of progress; None for another line."""
    if line.startswith("{"):
        with suppress(ValueError, KeyError, TypeError):
            report = json.loads(line)
            return report["stage"], report["done"], report["total"]
    return None


def _last_sentence(lines: list[str], status: int) -> str:
    said = [line for line in lines if line]
    ours = [line.removeprefix("oclr: ") for line in said if line.startswith("oclr: ")]
    if status == 0:
        return said[-1] if said else ""
    if ours:
        return ours[-1]
    return f"The command ended with status {status}: {said[-1] if said else 'it said nothing'}."


def _wait_until_free(folder: Path, given_up: Callable[[], bool]) -> None:
    """Waits while another process writes to a folder, as one does that a killed server started.

    It notices when it reports its progress next, and ends.
    """
    until = time.monotonic() + _PATIENCE
    while folder.is_dir() and time.monotonic() < until and not given_up():
        with suppress(UserError), locked_output(folder):
            return
        time.sleep(0.2)

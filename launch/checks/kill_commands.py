"""Stops `oclr segment`, `flow` and `evaluate` at random moments and checks what they leave.

`python launch/checks/kill_commands.py --moments 20` runs each command 20 times on a tiny clip with
tiny weights, on the CPU. In turn, a run is stopped by SIGKILL, SIGTERM or SIGHUP at a random time,
meets a file-size limit, or a full disk (a small tmpfs, where mounting is allowed). The checks:

- After a signal that can be caught, or an error, old or new results are whole, nothing else is
  there, and the exit status is that of the signal, or 2 with one sentence.
- After SIGKILL, old or new results are whole once another command has started on the folder.
- The same command then gives the results of an undisturbed run, and nothing else is left.

A violated check is printed and makes the exit status 1.
"""

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Runs from a checkout, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
# Before jax is imported, which reads them only then. With the cache a run takes a second.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).resolve().parents[2] / ".cache/jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

import numpy as np

# Imported before the forks, which then start at once. Nothing may use jax here: its threads do not
# survive a fork.
import oclr_jax.evaluate
import oclr_jax.flow.to_folder
import oclr_jax.pipeline  # noqa: F401
from oclr_jax import cli
from oclr_jax.models.oclr import parameter_shapes
from oclr_jax.models.parameters import unflatten
from oclr_jax.video.png import write_png
from oclr_jax.weights.file import save_weights
from tests.clips import CONFIG, INFO, moving_clip, square_masks, write_frames

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
SIZE_LIMIT, FULL_DISK = "size limit", "full disk"
Content = dict[str, bytes | None]


@dataclass(frozen=True)
class Command:
    """A command under test.

    arguments: without the output folder, which `output` appends.
    recovery: arguments of a command that starts on the folder and is then refused; None where
      every single file must be whole, since the command resumes.
    old, new: content of the output folder before, and after an undisturbed run.
    seconds: CPU time of an undisturbed run.
    """

    name: str
    arguments: list[str]
    recovery: list[str] | None
    old: Content
    new: Content
    seconds: float

    def is_whole(self, content: Content) -> bool:
        if self.recovery is None:
            return all(item in self.new.items() for item in content.items())
        return content in (self.old, self.new)


def content_of(folder: Path) -> Content:
    """Every path below a folder, with the content of files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def write_content(folder: Path, content: Content) -> None:
    folder.mkdir(parents=True)
    for name, data in content.items():
        path = folder / name
        if data is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def start(work: Callable[[], int], log: Path, size_limit: int | None = None) -> int:
    """Runs `work` in a forked process, its output to `log`; returns the process id."""
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        if size_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size_limit, size_limit))
        status = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def finish(process: int) -> tuple[int, float]:
    """Waits for a process.

    Returns:
      its exit status, or the negative number of the signal that killed it, and its CPU seconds.
    """
    _, status, used = os.wait4(process, 0)
    return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime


def run(arguments: list[str], log: Path) -> int:
    return finish(start(lambda: cli.main(arguments), log))[0]


def wait_for_cpu(process: int, seconds: float) -> None:
    """Waits until a process has used this much CPU time, which a busy machine does not change.

    Returns earlier when the process ends.
    """
    while True:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if used >= seconds or fields[0] == "Z":
            break
        time.sleep(0.002)


def make_inputs(folder: Path) -> int:
    """Writes two clips, a dataset of two sequences, and weights that nothing was learned in."""
    rng = np.random.default_rng(0)
    shapes = parameter_shapes(CONFIG)
    params = {name: 0.1 * rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    save_weights(folder / "weights.safetensors", unflatten(params), INFO, dtype="float32")
    write_frames(folder / "old clip", moving_clip(4, seed=5))
    write_frames(folder / "clip", moving_clip(8))
    for name, seed in (("first", 0), ("second", 20)):
        write_frames(folder / "data" / "JPEGImages" / name, moving_clip(6, seed=seed))
        for number, ids in enumerate(square_masks(6)):
            path = folder / "data" / "Annotations" / name / f"{number}.png"
            write_png(path, (ids > 0) * np.uint8(255))
    return 0


def prepare(folder: Path, log: Path) -> list[Command]:
    """Runs every command undisturbed, twice: the first run fills jax's compilation cache."""
    check(finish(start(lambda: make_inputs(folder), log))[0] == 0, "the inputs", log)
    clip, weights = str(folder / "clip"), ["--weights", str(folder / "weights.safetensors")]
    segment = ["segment", clip, *weights, "--overwrite", "--quiet"]
    data = ["--dataset", "folder", "--data", str(folder / "data")]
    commands = (
        ("segment", segment, ["segment", clip, *weights]),
        ("flow", ["flow", clip, "--quiet"], ["flow", str(folder / "missing")]),
        ("evaluate", ["evaluate", *data, *weights, "--quiet"], None),
    )
    prepared = []
    for name, arguments, recovery in commands:
        output = folder / name
        output.mkdir()
        (output / "notes.txt").write_text("of the user")
        if name == "segment":
            before = ["segment", str(folder / "old clip"), *weights, str(output)]
            check(run(before, log) == 0, "the old results", log)
        old = content_of(output)
        for _ in range(2):
            shutil.rmtree(output)
            write_content(output, old)
            line = with_output(arguments, output)
            status, seconds = finish(start(lambda line=line: cli.main(line), log))
            check(status == 0, name, log)
        print(f"{name:8}  undisturbed: {seconds:.1f} s of CPU time", flush=True)
        prepared.append(Command(name, arguments, recovery, old, content_of(output), seconds))
    return prepared


def check(condition: bool, what: str, log: Path) -> None:
    if not condition:
        raise SystemExit(f"{what}: an undisturbed run failed:\n{log.read_text()}")


def with_output(arguments: list[str], output: Path) -> list[str]:
    if arguments[0] == "evaluate":
        return [*arguments, "--output", str(output)]
    return [*arguments[:2], str(output), *arguments[2:]]


@contextmanager
def output_folder(folder: Path, command: Command, kilobytes: int | None) -> Iterator[Path]:
    """A folder with the old results; on a disk of its own where `kilobytes` are given."""
    disk = folder / "disk"
    disk.mkdir()
    if kilobytes is not None:
        options = f"size={kilobytes}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", disk], check=True)
    try:
        write_content(disk / "out", command.old)
        yield disk / "out"
    finally:
        if kilobytes is not None:
            subprocess.run(["umount", disk], check=True)
        shutil.rmtree(disk)


def can_mount(folder: Path) -> bool:
    probe = folder / "probe"
    probe.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "none", probe], capture_output=True, check=False
    )
    if mounted.returncode == 0:
        subprocess.run(["umount", probe], check=True)
    probe.rmdir()
    return mounted.returncode == 0


def pages(content: Content) -> int:
    """Kilobytes that a folder takes on a tmpfs, roughly."""
    return sum(4 if data is None else 4 * (len(data) // 4096 + 1) for data in content.values())


def stop(
    command: Command, how: signal.Signals | str, folder: Path, log: Path, rng: random.Random
) -> tuple[str, list[str]]:
    """One stopped run: what was found after it, and the violated checks."""
    kilobytes = limit = None
    if how == FULL_DISK:
        kilobytes = pages(command.old) + 16 + rng.randrange(pages(command.new))
    if how == SIZE_LIMIT:
        limit = rng.randrange(1024, max(len(data or b"") for data in command.new.values()))
    with output_folder(folder, command, kilobytes) as output:
        arguments = with_output(command.arguments, output)
        process = start(lambda: cli.main(arguments), log, limit)
        if isinstance(how, signal.Signals):
            # Every other time near the end, where results are published.
            wait_for_cpu(process, command.seconds * rng.uniform(rng.choice((0, 0.9)), 1))
            os.kill(process, how)
        status, _ = finish(process)
        said, left = log.read_text(), content_of(output)
        wrong = wrong_end(command, how, status, said, left)
        if kilobytes is not None:
            subprocess.run(["mount", "-o", "remount,size=64m", output.parent], check=True)
        if command.recovery is not None:
            if run(with_output(command.recovery, output), log) != 2:
                wrong.append(f"the recovering command: {log.read_text()}")
            if not command.is_whole(content_of(output)):
                wrong.append("neither old nor new results are whole after recovery")
        again = run(arguments, log)
        if again != 0 and not (command.name == "flow" and content_of(output) == command.new):
            wrong.append(f"the next run: {log.read_text()}")
        if content_of(output) != command.new:
            wrong.append("the next run does not end as an undisturbed one")
    if status == 0:
        return "finished before", wrong
    if not command.is_whole(left):
        return "needed recovery", wrong
    if command.recovery is None:
        return "every file whole", wrong
    return ("new whole" if left == command.new else "old whole"), wrong


def wrong_end(
    command: Command, how: signal.Signals | str, status: int, said: str, left: Content
) -> list[str]:
    """Violated checks of a run's end, before another command has started."""
    if how == signal.SIGKILL:
        return []
    wrong = []
    if not command.is_whole(left):
        wrong.append(f"not whole, or something is left: {sorted(left.keys() ^ command.old.keys())}")
    expected = 128 + how if isinstance(how, signal.Signals) else 2
    # Before it can install handlers, a program dies by the signal itself.
    if status not in (0, expected) and not (left == command.old and -status == how):
        wrong.append(f"exit status {status}: {said}")
    if status == 2 and (said.count("\n") != 1 or not said.startswith("oclr: ")):
        wrong.append(f"not one sentence: {said}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=20, help="runs of each command")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    rng, violated = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        folder, log = Path(folder), Path(folder) / "log.txt"
        hows = [*SIGNALS, SIZE_LIMIT, *([FULL_DISK] if can_mount(folder) else [])]
        for command in prepare(folder, log):
            found: dict[str, Counter] = {}
            for moment in range(options.moments):
                how = hows[moment % len(hows)]
                name = how.name if isinstance(how, signal.Signals) else how
                outcome, wrong = stop(command, how, folder, log, rng)
                found.setdefault(name, Counter())[outcome] += 1
                print(f"{command.name} {moment + 1}: {name}, {outcome}", flush=True)
                violated += len(wrong)
                for sentence in wrong:
                    print(f"{command.name}, {name}, moment {moment + 1}: {sentence}", flush=True)
            for name, outcomes in found.items():
                counts = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
                print(f"{command.name:8}  {name:10}  {counts}", flush=True)
    print(f"{options.moments} moments of each command, {violated} checks violated")
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())

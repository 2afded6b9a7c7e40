"""What the report contains: where the time went, and which code ran."""

import subprocess

import pytest

from oclr_jax.train.record import timing
from oclr_jax.train.record.environment import describe_environment, git_state
from oclr_jax.train.record.timing import PhaseTimer, total_seconds


def test_time_adds_up_over_interruptions(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 20.0, 21.0])
    monkeypatch.setattr(timing.time, "monotonic", lambda: next(clock))
    first = PhaseTimer()
    with first.time("compile", when=True):
        pass
    with first.time("compile", when=False):
        pass
    noted = first.take()
    assert noted == {"seconds_compile": 3.0, "seconds_checkpoint": 0.0, "seconds_evaluation": 0.0}
    with first.time("evaluation"):
        pass
    rows = [
        {"kind": "train", "step": 5, "seconds": 10.0, "seconds_data_wait": 2.0, **noted},
        {"kind": "validation", "step": 5, "seconds": 99.0},
        # Of a process that went on later, and of one before rows noted seconds.
        {"kind": "train", "step": 9, "seconds": 7.0, "seconds_data_wait": 0.5}
        | {"seconds_compile": 2.5, "seconds_checkpoint": 1.0, "seconds_evaluation": 30.0},
        {"kind": "train", "step": 10, "loss": 0.5},
    ]
    assert total_seconds(rows, first.pending) == {
        "step": 17.0 - 2.5 - 5.5 - 1.0,
        "data wait": 2.5,
        "compile": 5.5,
        "checkpoint": 1.0,
        "evaluation": 31.0,
    }


def git(folder, *arguments):
    author = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_state_of_the_checkout(tmp_path):
    assert git_state(tmp_path) == "not a git checkout"
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    # Installed inside of a checkout of something else.
    assert git_state(package) == "not a git checkout"
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    assert git_state(package).endswith("), nothing changed since")
    (package / "__init__.py").write_text("changed = True")
    assert git_state(package).endswith("), changed since: package/__init__.py")


def test_without_git_there_is_no_state(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) == "not a git checkout"


def test_the_environment_names_devices_and_versions():
    environment = describe_environment()
    assert "cpu" in environment["devices"] and environment["processes"] == "1"
    assert {"python", "jax", "flax", "git", "machine"} < set(environment)

"""How commands end: exit status, one sentence, signals that clean up, streams that fail."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oclr_jax import files
from oclr_jax.command import run_command
from oclr_jax.errors import UserError
from oclr_jax.files import staged_output

ROOT = Path(__file__).resolve().parents[1]
LATIN_1 = os.fsdecode(b"caf\xe9.mp4")


def raising(error: BaseException):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    "error, status, says",
    [
        (UserError("The video is damaged."), 2, "The video is damaged."),
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "a/b: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "the disk is full"),
        (OSError("image file is truncated"), 2, "image file is truncated"),
        (FileNotFoundError(errno.ENOENT, "No such file", LATIN_1), 2, "caf\\udce9.mp4: No such"),
        (UnicodeEncodeError("utf-8", LATIN_1, 3, 4, "surrogates not allowed"), 2, "rename the"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_sentence(capsys, error, status, says):
    assert run_command("test", raising(error)) == status
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert err.startswith("test: ") and says in err and err.endswith(".\n")


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command("test", lambda: 1 / 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_clean_up(capsys, tmp_path, number):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)

    def command():
        with staged_output(tmp_path / "new" / "out", ("masks",)) as staged:
            (staged / "masks").mkdir()
            signal.raise_signal(number)

    assert run_command("test", command) == 128 + number
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().err == "test: interrupted; no partial results were left.\n"
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP))


@pytest.mark.parametrize("when", ["publishing", "cleaning up"])
def test_a_signal_does_not_cut_short(tmp_path, monkeypatch, when):
    """While results are published, and, the second of two, while what is left is removed."""
    removed, calls = files.shutil.rmtree, 0

    def interrupted(*arguments, **options):
        nonlocal calls
        calls += 1
        signal.raise_signal(signal.SIGTERM)
        removed(*arguments, **options)

    def command():
        with staged_output(tmp_path / "out", ("masks",)) as staged:
            (staged / "masks").mkdir()
            monkeypatch.setattr(files.shutil, "rmtree", interrupted)
            if when == "cleaning up":
                raise KeyboardInterrupt

    assert run_command("test", command) == 143
    assert calls == (4 if when == "publishing" else 2)
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == (["out", "masks"] if when == "publishing" else [])


def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert run_command("test", lambda: signal.raise_signal(signal.SIGHUP)) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_name_that_is_no_text_can_be_printed(capsys):
    assert run_command("test", lambda: print(LATIN_1)) == 0
    assert capsys.readouterr().out == "caf\\udce9.mp4\n"


@pytest.mark.parametrize("stream, status", [("a closed pipe", 141), ("a full disk", 2)])
def test_standard_output_that_fails(stream, status):
    code = "import sys; from oclr_jax.command import run_command as run\n"
    code += "sys.exit(run('test', lambda: print('x')))"
    reader, writer = os.pipe()
    os.close(reader)
    if stream == "a full disk":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    # With a buffer, as it is by default: it must not be written once more at the end.
    environment = {name: value for name, value in os.environ.items() if "UNBUFFERED" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert done.returncode == status
    said = "" if status == 141 else "test: the disk is full; free some space."
    assert done.stderr.startswith(said) and done.stderr.count("\n") == (status == 2)

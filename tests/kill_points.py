"""Kills the publication of results at every change of the disk; run as a program by a test.

`python -m tests.kill_points FOLDER` prints how many instants were tried. A child process that was
forked for each instant dies there without cleaning up. The parent then checks that old or new
results are whole once the next command has recovered, and kills the recovery at every instant too.
"""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from oclr_jax.files import staged_output
from oclr_jax.results import RESULT_NAMES

KILLED = 9
CHANGES = ("rename", "replace", "mkdir", "rmdir", "unlink")


def write_results(output: Path, text: str, overlay: bool = False) -> None:
    with staged_output(output, RESULT_NAMES, overwrite=True) as staged:
        for name in ("masks", "amodal"):
            (staged / name).mkdir()
            (staged / name / "0.png").write_text(text)
        (staged / "objects.json").write_text(text)
        if overlay:
            (staged / "overlay.mp4").write_text(text)


def recover(output: Path) -> None:
    """The start of a command that then finds out that it must not overwrite."""
    try:
        with staged_output(output, RESULT_NAMES, overwrite=True):
            raise InterruptedError
    except InterruptedError:
        pass


def content(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Runs `work` in a child that dies before its change `number` of the disk, if there is one."""
    child = os.fork()
    if child == 0:
        left = number

        def counted(change):
            def call(*arguments, **options):
                nonlocal left
                if left == 0:
                    os._exit(KILLED)
                left -= 1
                return change(*arguments, **options)

            return call

        for name in CHANGES:
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, KILLED), f"the child failed at change {number}: {code}"
    return code == KILLED


def check(folder: Path) -> int:
    expected = []
    for text, overlay in (("old", True), ("new", False)):
        write_results(folder / text, text, overlay)
        (folder / text / "notes.txt").write_text("mine")
        expected.append(content(folder / text))
    output, tried, commits = folder / "output", 0, []
    while True:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(folder / "old", output)
        if not killed_at(tried, lambda: write_results(output, "new")):
            break
        shutil.copytree(output, folder / "killed")
        # Every third instant, each time another third.
        again = tried % 3
        while killed_at(again, lambda: recover(output)):
            recover(output)
            assert content(output) in expected, f"killed at change {tried}, then at {again}"
            shutil.rmtree(output)
            shutil.copytree(folder / "killed", output)
            again += 3
        assert content(output) in expected, f"killed at change {tried}"
        commits.append(content(output) == expected[1])
        write_results(output, "new")
        assert content(output) == expected[1], f"the next run after a kill at change {tried}"
        shutil.rmtree(folder / "killed")
        tried += 1
    assert content(output) == expected[1]
    assert commits == sorted(commits) and True in commits and False in commits
    return tried


if __name__ == "__main__":
    print(check(Path(sys.argv[1])))

"""The local page in a test: its queue, its client, and commands that stand in for real ones."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from starlette.testclient import TestClient

from oclr_jax.web.app import Page, make_app
from oclr_jax.web.jobs import DONE, Job, Queue

TOKEN = "a-token-of-a-test-that-is-long-enough"
ADDRESS = "http://127.0.0.1:8765"


def make_page(folder: Path, only_view: bool = False, **options) -> Page:
    """A page on an empty folder."""
    for name in ("uploads", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return Page(folder, Queue(folder), only_view, **options)


def client(page: Page, **options) -> TestClient:
    """A client whose addresses begin behind the token. Entering it starts the queue."""
    return TestClient(make_app(page, TOKEN), base_url=f"{ADDRESS}/{TOKEN}/", **options)


def show_result(page: Page, result: Path) -> int:
    """Puts a folder of results on the list; gives its number."""
    return page.queue.add("segment", str(result), DONE).number


def run_instead(monkeypatch, code: str) -> None:
    """Jobs run Python code instead; `job` in it is the job's result folder."""

    def command(self: Job) -> list[str]:
        return [sys.executable, "-c", f"job = {self.result!r}\n{code}"]

    monkeypatch.setattr(Job, "command", command)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    """Waits until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.02)

"""The queue: one job at a time, progress, cancelling, and going on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from oclr_jax.errors import UserError
from oclr_jax.files import locked_output
from oclr_jax.web.jobs import Job, Queue
from tests.web.pages import run_instead, wait_for

ROOT = Path(__file__).resolve().parents[2]
SLOW = """
import json, sys, time
for done in range(1000):
    line = {"stage": "reading", "done": done, "total": 1000}
    print(json.dumps(line), file=sys.stderr, flush=True)
    time.sleep(0.02)
"""


@pytest.fixture
def queue(tmp_path):
    queue = Queue(tmp_path)
    yield queue
    queue.stop()


def state(queue, number=1) -> str:
    return queue.get(number).state


def test_jobs_run_one_after_the_other(queue, tmp_path, monkeypatch):
    log = tmp_path / "log"
    line = "open({!r}, 'a').write('{}' + job + chr(10))"
    begin, end = line.format(str(log), "+"), line.format(str(log), "-")
    run_instead(monkeypatch, f"import time\n{begin}\ntime.sleep(0.1)\n{end}\nprint('Found', job)")
    for name in ("a", "b"):
        queue.add("segment", name, input="clip")
    queue.start()
    queue.add("segment", "c", input="clip")
    wait_for(lambda: all(job.state == "done" for job in queue.jobs()))
    assert log.read_text().split() == ["+a", "-a", "+b", "-b", "+c", "-c"]
    assert [job.message for job in queue.jobs()] == ["Found a", "Found b", "Found c"]


def test_progress_is_that_of_the_command(queue, monkeypatch):
    run_instead(monkeypatch, SLOW)
    queue.add("segment", "a")
    queue.start()
    wait_for(lambda: queue.get(1).done > 2)
    assert (queue.get(1).stage, queue.get(1).total) == ("reading", 1000)
    queue.cancel(1)
    wait_for(lambda: queue._process is None)
    assert state(queue) == "cancelled"
    queue.retry(1)
    wait_for(lambda: state(queue) == "running")


@pytest.mark.parametrize(
    "code, says",
    [
        (
            "import sys\nprint('oclr: It is no video.', file=sys.stderr)\nsys.exit(2)",
            "It is no video.",
        ),
        ("raise RuntimeError('a bug')", "The command ended with status 1: RuntimeError: a bug."),
        (
            "import os\nos.kill(os.getpid(), 9)",
            "The command ended with status -9: it said nothing.",
        ),
    ],
)
def test_a_command_that_fails_does_not_stop_the_queue(queue, monkeypatch, code, says):
    run_instead(monkeypatch, f"if job == 'bad':\n    {code.replace(chr(10), chr(10) + '    ')}")
    queue.add("segment", "bad")
    queue.add("segment", "good")
    queue.start()
    wait_for(lambda: state(queue, 2) == "done")
    assert (state(queue), queue.get(1).message) == ("failed", says)


def test_what_cannot_be_started_fails(queue, monkeypatch):
    monkeypatch.setattr(Job, "command", lambda self: ["/no/such/program"])
    queue.add("segment", "a")
    queue.start()
    wait_for(lambda: state(queue) == "failed")
    assert "No such file" in queue.get(1).message


def test_a_stopped_queue_runs_the_job_again(tmp_path, monkeypatch):
    run_instead(monkeypatch, SLOW)
    first = Queue(tmp_path)
    first.add("segment", "a")
    first.start()
    wait_for(lambda: first.get(1).done > 0)
    first.stop()
    assert state(Queue(tmp_path)) == "waiting"


def test_a_job_waits_for_a_process_that_still_writes(queue, tmp_path, monkeypatch):
    """As one does that a killed server had started."""
    run_instead(monkeypatch, "print('Found')")
    with locked_output(tmp_path / "result") as folder:
        queue.add("segment", str(folder))
        queue.start()
        time.sleep(0.5)
        assert state(queue) == "running"
    wait_for(lambda: state(queue) == "done")


def test_ended_jobs_can_be_taken_off_the_list(queue, tmp_path):
    queue.add("segment", str(tmp_path / "result"), "done")
    queue.add("segment", "b")
    queue.remove(1)
    assert queue.get(1) is None
    with pytest.raises(UserError, match="Only a job that has ended"):
        queue.remove(2)
    queue.cancel(2)
    queue.remove(2)
    assert Queue(tmp_path).jobs() == []
    assert Queue(tmp_path).take_number() == 3, "folders are named by numbers"


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1, "jobs": [{}]}', "{}"])
def test_a_broken_list_of_jobs(tmp_path, text):
    (tmp_path / "jobs.json").write_text(text)
    with pytest.raises(UserError, match="no list of jobs"):
        Queue(tmp_path)


def start_server(folder: Path) -> tuple[subprocess.Popen, str]:
    """`oclr serve` whose jobs are a command that takes forever."""
    code = f"""
import sys
from oclr_jax.web import jobs
jobs.Job.command = lambda self: [sys.executable, "-c", {SLOW!r}]
from oclr_jax import cli
sys.exit(cli.main(["serve", {str(folder)!r}, "--no-browser", "--port", "0"]))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().split()[1]


def test_a_killed_server_goes_on_where_it_was(tmp_path):
    queue = Queue(tmp_path)
    for name in ("a", "b"):
        queue.add("segment", str(tmp_path / name))
    queue.cancel(2)
    first, address = start_server(tmp_path)
    jobs = tmp_path / "jobs.json"
    wait_for(lambda: json.loads(jobs.read_text())["jobs"][0]["state"] == "running")
    first.kill()
    first.wait()
    first.stdout.close()
    second, again = start_server(tmp_path)
    try:
        assert again.rsplit("/", 2)[1] == address.rsplit("/", 2)[1], "the page finds it again"
        assert os.stat(tmp_path / "server.json").st_mode & 0o077 == 0

        def shown() -> list[dict]:
            with urlopen(f"{again}api/state") as answer:
                return json.load(answer)["jobs"]

        wait_for(lambda: shown()[0]["state"] == "running" and shown()[0]["done"] > 0)
        assert shown()[1]["state"] == "cancelled"
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 143
    finally:
        second.kill()
        second.wait()
        second.stdout.close()
    assert [job.state for job in Queue(tmp_path).jobs()] == ["waiting", "cancelled"]

"""The scripts for clusters: the commands they print and run, and their answers to mistakes.

No cluster is at hand: stand-ins for gcloud, sbatch and srun keep what they are called with, or run
it here.
"""

import argparse
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "launch").rglob("*.sh"))
# A value with what a shell could take apart, on its way through ssh and a batch script too.
TRAINING = ["--config", "configs/oclr_flow.py:ours_h", "--workdir", "gs://b/it's $HOME",
            "--config.model.channels=(4, 8)"]  # fmt: skip
SLICE = ["--name", "slice", "--zone=us-east5-a"]


def run(script, *arguments, path=None, **options):
    environment = os.environ | ({"PATH": f"{path}:{os.environ['PATH']}"} if path else {})
    command = ["bash", ROOT / "launch" / "cluster" / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def printed(script, *arguments):
    """The words of the one command that a dry run prints."""
    out = run(script, *arguments)
    assert out.returncode == 0, out.stderr
    assert len(out.stdout.splitlines()) == 1
    return shlex.split(out.stdout)


def program(folder: Path, name: str, text: str) -> Path:
    """A program for PATH; `text` is its shell script."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{text}\n")
    (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if shellcheck is None:
        pytest.skip("needs shellcheck, which the extra `test` installs")
    command = [shellcheck, "--shell=bash", "--external-sources", "-P", "SCRIPTDIR", script]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout


def test_each_step_of_a_slice_is_one_gcloud_command():
    def words(step, *more):
        words = printed("tpu_pod.sh", step, "--dry-run", *SLICE, *more)
        assert words[:4] == ["gcloud", "compute", "tpus", "tpu-vm"]
        assert words.count("slice") == words.count("--zone=us-east5-a") == 1
        return words[4:]

    assert words("create", "--type", "v4-32") == [
        "create", "slice", "--accelerator-type=v4-32", "--version=tpu-ubuntu2204-base",
        "--zone=us-east5-a",
    ]  # fmt: skip
    spot = words("create", "--type=v6e-8", "--image=v2-alpha-tpuv6e", "--spot", "--project=p")
    assert {"--spot", "--version=v2-alpha-tpuv6e", "--project=p"} < set(spot)
    for step in ("install", "log"):
        assert {"ssh", "--worker=all"} < set(words(step))
    for step in ("start", "resume"):
        (remote,) = (w for w in words(step, "--", *TRAINING) if w.startswith("--command="))
        assert shlex.split(remote.removeprefix("--command=")) == [
            "bash", "oclr_jax/launch/cluster/tpu_host.sh", step, *TRAINING
        ]  # fmt: skip
    assert words("delete") == ["delete", "slice", "--quiet", "--zone=us-east5-a"]


def documented_gcloud() -> argparse.ArgumentParser:
    """The flags that the reference of gcloud lists for the commands in use, with their values."""
    every = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    every.add_argument("name")
    for flag in ("--zone", "--project"):
        every.add_argument(flag)
    every.add_argument("--quiet", action="store_true")
    parser = argparse.ArgumentParser(prog="gcloud compute tpus tpu-vm", allow_abbrev=False)
    commands = parser.add_subparsers(dest="step", required=True)
    create = commands.add_parser("create", parents=[every], allow_abbrev=False)
    create.add_argument("--version", required=True)
    for flag in ("--accelerator-type", "--network", "--subnetwork", "--service-account", "--tags"):
        create.add_argument(flag)
    for flag in ("--spot", "--preemptible", "--async", "--internal-ips", "--reserved"):
        create.add_argument(flag, action="store_true")
    ssh = commands.add_parser("ssh", parents=[every], allow_abbrev=False)
    for flag in ("--worker", "--command", "--ssh-key-file", "--output-directory"):
        ssh.add_argument(flag)
    for flag in ("--dry-run", "--internal-ip", "--plain"):
        ssh.add_argument(flag, action="store_true")
    delete = commands.add_parser("delete", parents=[every], allow_abbrev=False)
    delete.add_argument("--async", action="store_true")
    return parser


STEPS = pytest.mark.parametrize(
    "arguments",
    [
        ["create", "--type=v5litepod-16", "--image=v2-alpha-tpuv5-lite", "--spot", "--project=p"],
        ["install", "--project=p"],
        ["start", "--", *TRAINING],
        ["log"],
        ["resume", "--", *TRAINING],
        ["delete"],
    ],
    ids=lambda arguments: arguments[0],
)


@STEPS
def test_gcloud_documents_every_flag_in_use(arguments):
    step, *more = arguments
    words = printed("tpu_pod.sh", step, "--dry-run", *SLICE, *more)
    given = documented_gcloud().parse_args(words[4:])
    assert (given.name, given.zone) == ("slice", "us-east5-a")
    assert given.step in ("create", "ssh", "delete")


def understood(command: list[str], config: Path) -> dict:
    """What gcloud's own parser says to a command; it runs nothing and needs no account."""
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--command-string={shlex.join(command)}"]
    environment = os.environ | {
        "CLOUDSDK_CONFIG": str(config),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }
    out = subprocess.run(lint, capture_output=True, text=True, env=environment, check=True)
    return json.loads(out.stdout)[0]


@STEPS
def test_gcloud_itself_parses_every_command(arguments, tmp_path):
    if shutil.which("gcloud") is None:
        pytest.skip("needs the Google Cloud CLI")
    step, *more = arguments
    command = printed("tpu_pod.sh", step, "--dry-run", *SLICE, *more)
    answer = understood(command, tmp_path)
    assert answer["success"], answer["error_message"]
    assert answer["command_args"]["--zone"]["value"] == "us-east5-a"
    assert not understood([*command, "--flag-that-is-not"], tmp_path)["success"]


def test_what_is_printed_is_what_is_run(tmp_path):
    path = program(tmp_path, "gcloud", 'printf "%s\\n" gcloud "$@"')
    arguments = ["start", *SLICE, "--", *TRAINING]
    ran = run("tpu_pod.sh", *arguments, path=path).stdout.splitlines()
    assert ran == printed("tpu_pod.sh", "start", "--dry-run", *SLICE, "--", *TRAINING)


def test_a_slice_is_installed_started_resumed_and_looked_at(tmp_path):
    """gcloud's stand-in runs the remote command here, in a home of its own."""
    home = tmp_path / "home"
    checkout = home / "oclr_jax"
    (checkout / "launch" / "cluster").mkdir(parents=True)
    shutil.copy(ROOT / "launch/cluster/tpu_host.sh", checkout / "launch/cluster")
    remote = f'for w; do case $w in --command=*) cd {home} && exec bash -c "${{w#*=}}";; esac; done'
    path = program(tmp_path / "bin", "gcloud", remote)
    program(path, "git", 'echo "git $*"')
    program(path, "python3", 'echo "python3 $*"')
    # The training: says what it got and waits for the signal, which ends it with a word.
    training = (
        'trap "echo saved; exit 143" TERM; printf "<%s>" "$@"; echo; while :; do sleep .1; done'  # noqa: E501
    )
    program(checkout / ".venv" / "bin", "python", training)

    out = run("tpu_pod.sh", "install", *SLICE, path=path)
    assert out.returncode == 0, out.stderr
    assert "git pull" in out.stdout and "jax[tpu]" in out.stdout
    out = run("tpu_pod.sh", "start", *SLICE, "--", *TRAINING, path=path)
    assert out.returncode == 0 and "training as process" in out.stdout, out.stderr
    pid = int((checkout / "workdirs" / "host.pid").read_text())
    try:
        time.sleep(0.3)
        out = run("tpu_pod.sh", "start", *SLICE, "--", *TRAINING, path=path)
        assert out.returncode == 2 and "already running" in out.stderr
        out = run("tpu_pod.sh", "resume", *SLICE, "--", *TRAINING, path=path)
        assert out.returncode == 0, out.stderr
        first, pid = pid, int((checkout / "workdirs" / "host.pid").read_text())
        assert pid != first
        time.sleep(0.3)
        log = run("tpu_pod.sh", "log", *SLICE, path=path).stdout
    finally:
        os.kill(pid, signal.SIGTERM)
    words = "".join(f"<{word}>" for word in ["launch/train.py", *TRAINING])
    assert log.splitlines() == [words, "saved", words]


def test_a_slurm_job_has_a_task_for_each_gpu(tmp_path):
    words = printed(
        "slurm.sh", "--nodes=2", "--gpus", "4", "--time=1:00:00", "--python", "python",
        "--dry-run", "--", *TRAINING,
    )  # fmt: skip
    wanted = {"--nodes=2", "--ntasks-per-node=4", "--gpus-per-node=4", "--time=1:00:00"}
    assert words[0] == "sbatch" and wanted | {"--signal=TERM@120", "--requeue"} < set(words)
    assert not [word for word in words if word.startswith(("--partition", "--account"))]
    # The batch script, as a shell reads it.
    path = program(tmp_path, "srun", 'printf "%s\\n" "$@"')
    script = words[-1].removeprefix("--wrap=")
    out = subprocess.run(["bash", "-c", f"PATH={path}:$PATH; {script}"], capture_output=True)
    assert out.stdout.decode().splitlines() == ["python", "launch/train.py", *TRAINING]


def test_several_gpus_of_one_machine(tmp_path):
    arguments = ["--gpus", "0,2", "--python", tmp_path / "python", "--", *TRAINING]
    words = printed("multi_gpu.sh", "--dry-run", *arguments)
    assert words[:2] == ["env", "CUDA_VISIBLE_DEVICES=0,2"]
    program(tmp_path, "python", 'printf "%s\\n" "$PWD" "$CUDA_VISIBLE_DEVICES" "$@"')
    out = run("multi_gpu.sh", *arguments, cwd=tmp_path)
    assert out.stdout.splitlines() == [str(ROOT), "0,2", *words[3:]]


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("tpu_pod.sh", [], "The first argument must be create"),
        ("tpu_pod.sh", ["begin"], "The first argument must be create"),
        ("tpu_pod.sh", ["create", "--zone", "z"], "--name is missing"),
        ("tpu_pod.sh", ["create", *SLICE], "--type is missing"),
        ("tpu_pod.sh", ["create", *SLICE, "--type"], "--type needs a value"),
        ("tpu_pod.sh", ["create", *SLICE, "--type="], "--type needs a value"),
        ("tpu_pod.sh", ["delete", *SLICE, "--dry-run=yes"], "--dry-run=yes is not an option"),
        ("tpu_pod.sh", ["start", *SLICE], "The argument --config of launch/train.py is missing"),
        ("tpu_pod.sh", ["start", *SLICE, *TRAINING], "--config is not an option of this script"),
        ("slurm.sh", ["--nodes", "2", "--", *TRAINING], "--gpus is missing"),
        (
            "slurm.sh",
            ["--nodes", "2", "--gpus", "4"],
            "The argument --config of launch/train.py is missing",
        ),
        (
            "multi_gpu.sh",
            ["--", *TRAINING[:2]],
            "The argument --workdir of launch/train.py is missing",
        ),
        ("multi_gpu.sh", ["--gpus", "all", "--python=bash", "--", *TRAINING], "a list of numbers"),
        ("multi_gpu.sh", ["--python", "none", "--", *TRAINING], "There is no none; create it with"),
        ("multi_gpu.sh", ["0,1"], "0,1 is not an option of this script"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(script, arguments, sentence):
    out = run(script, *arguments)
    assert out.returncode == 2
    assert sentence in out.stderr and len(out.stderr.splitlines()) == 1
    assert out.stdout == ""

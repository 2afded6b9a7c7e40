"""Parallel generation: reproducible bytes, resumption, no partial results."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.builders.generation import generate_dataset
from data_pipelines.builders.oclr_syn import OclrSyn
from oclr_jax.errors import UserError
from oclr_jax.video.png import write_png

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, str(ROOT / "launch" / "generate.py"), "--quiet"]


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


@pytest.fixture
def copied(tiny_directory, tmp_path) -> Path:
    """A copy of the tiny dataset that a test may damage; its data directory is `tmp_path`."""
    copy = tmp_path.joinpath(*tiny_directory.parts[-3:])
    shutil.copytree(tiny_directory, copy)
    return copy


def test_number_of_processes_changes_no_byte(tiny_directory, tiny_config, tiny_estimator, tmp_path):
    one, _ = generate_dataset(tiny_config, tmp_path, tiny_estimator, processes=1, quiet=True)
    assert contents(one) == contents(tiny_directory)


def test_tfds_own_preparation_gives_the_same_bytes(tiny_directory, tiny_estimator, tmp_path):
    builder = OclrSyn(data_dir=tmp_path, config="tiny", estimator=tiny_estimator)
    builder.download_and_prepare()
    assert contents(Path(builder.data_dir)) == contents(tiny_directory)


@pytest.mark.filterwarnings("ignore")  # of Beam's
def test_beam_gives_the_same_bytes(tiny_directory, tiny_estimator, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv[:1])  # Beam reads the command line
    pytest.importorskip("apache_beam", reason="needs the extra `beam`")
    builder = OclrSyn(data_dir=tmp_path, config="tiny", estimator=tiny_estimator)
    config = tfds.download.DownloadConfig(beam_runner="DirectRunner")
    builder.download_and_prepare(download_config=config)
    made = contents(Path(builder.data_dir))
    # TFDS leaves its own notes on a Beam run.
    records = {name: data for name, data in made.items() if not name.endswith("shard_infos.json")}
    assert records == contents(tiny_directory)


def test_an_unfinished_dataset_is_resumed(copied, tiny_config, tiny_estimator, tmp_path):
    wanted = contents(copied)
    unfinished = copied.rename(copied.with_name(copied.name + ".unfinished"))
    (unfinished / "dataset_info.json").unlink()
    (unfinished / "README.md").unlink()
    lost, *kept = sorted(unfinished.glob("*.array_record-*"))
    lost.unlink()
    (unfinished / ".half-written").write_bytes(b"of a process that was killed")
    for path in kept:
        os.utime(path, (1, 1))
    directory, rendered = generate_dataset(tiny_config, tmp_path, tiny_estimator, quiet=True)
    assert rendered
    assert contents(directory) == wanted
    assert all((directory / path.name).stat().st_mtime == 1 for path in kept)
    assert not unfinished.exists()


def test_a_finished_dataset_is_left_unchanged(copied, tiny_config, tiny_estimator, tmp_path):
    directory, rendered = generate_dataset(tiny_config, tmp_path, tiny_estimator, quiet=True)
    assert (directory, rendered) == (copied, False)


def test_another_opencv_does_not_resume(copied, tiny_config, tiny_estimator, tmp_path, monkeypatch):
    renderer = cv2.__version__
    monkeypatch.setattr(cv2, "__version__", "9.9.9")
    # All frames of a finished dataset are of one version.
    assert not generate_dataset(tiny_config, tmp_path, tiny_estimator, quiet=True)[1]
    unfinished = copied.rename(copied.with_name(copied.name + ".unfinished"))
    before = contents(unfinished)
    with pytest.raises(UserError, match=f"started with OpenCV {renderer} and this is OpenCV 9.9.9"):
        generate_dataset(tiny_config, tmp_path, tiny_estimator, quiet=True)
    assert contents(unfinished) == before
    settings = json.loads((unfinished / "metadata.json").read_text())
    assert settings.pop("opencv") == renderer
    (unfinished / "metadata.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="an unknown version of OpenCV"):
        generate_dataset(tiny_config, tmp_path, tiny_estimator, quiet=True)


@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_rejected(copied, tiny_config, tiny_estimator, tmp_path, finished):
    if not finished:
        copied.rename(copied.with_name(copied.name + ".unfinished"))
    with pytest.raises(UserError, match=r"other settings \(seed\); remove it"):
        generate_dataset(tiny_config, tmp_path, tiny_estimator, seed=1, quiet=True)


def test_bad_numbers_are_rejected(tiny_config, tiny_estimator, tmp_path):
    with pytest.raises(UserError, match="processes must be at least 1, not 0"):
        generate_dataset(tiny_config, tmp_path, tiny_estimator, processes=0)
    with pytest.raises(UserError, match="seed must be 0 or more"):
        generate_dataset(tiny_config, tmp_path, tiny_estimator, seed=-1)
    assert not list(tmp_path.iterdir())


def test_remote_folders_are_rejected(tiny_config, tiny_estimator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="to a local disk"):
        generate_dataset(tiny_config, "gs://bucket/data", tiny_estimator)
    assert not list(tmp_path.iterdir())


def test_an_unwritable_folder_is_reported(tiny_config, tiny_estimator, tmp_path):
    blocker = tmp_path / "oclr_syn"
    blocker.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="choose another"):
        generate_dataset(tiny_config, tmp_path, tiny_estimator, quiet=True)
    assert blocker.is_file()


def test_the_command_prints_the_folder_of_the_dataset(copied, tmp_path):
    command = [*COMMAND, "--config", "tiny", "--data_dir", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout == f"{copied} exists; nothing to do\n"
    out = subprocess.run([*command, "--seed", "1"], capture_output=True, text=True)
    assert out.returncode == 2
    assert "other settings (seed)" in out.stderr and "Traceback" not in out.stderr


@pytest.mark.slow
def test_raft_estimates_the_flow_of_a_dataset(tmp_path, raft_weights):
    command = [*COMMAND, "--config", "tiny", "--data_dir", str(tmp_path), "--processes", "1"]
    out = subprocess.run(
        [*command, "--flow", f"raft:{raft_weights}"], capture_output=True, text=True
    )
    assert out.returncode == 0, out.stderr
    info = tfds.builder_from_directory(out.stdout.split(" is ready")[0]).info
    assert info.metadata["flow"]["estimator"] == "raft"
    assert info.metadata["flow"]["weights"] == raft_weights.name
    out = subprocess.run([*command, "--flow", "raft:none"], capture_output=True, text=True)
    assert out.returncode == 2 and "no weights none" in out.stderr


def test_sources_are_checked_before_rendering(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (images / "bad.png").write_bytes(b"no picture")
    data_dir = tmp_path / "data"
    command = [*COMMAND, "--config", "tiny", "--data_dir", str(data_dir), "--images", str(images)]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 2
    assert len(out.stderr.splitlines()) == 1 and "bad.png" in out.stderr
    assert not data_dir.exists()
    image = np.random.default_rng(0).integers(0, 256, (80, 120, 3), dtype=np.uint8)
    write_png(images / "good.png", image)
    command += ["--procedural", "0.4"]
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert "skipped 1 of 2 files that cannot be read: bad.png" in out.stderr
    (card,) = data_dir.glob("oclr_syn/tiny/*/README.md")
    assert (
        "- images: images, 1 files, 1 unreadable files skipped; licence: not stated"
        in card.read_text()
    )
    assert "- 40% of the textures and shapes: procedural all the same" in card.read_text()
    # Other sources are other settings.
    write_png(images / "more.png", image)
    out = subprocess.run(command, capture_output=True, text=True)
    assert out.returncode == 2 and "other settings (sources)" in out.stderr


def test_a_full_disk_is_reported(tmp_path):
    # A limit on the size of a file fails as a full disk does, and needs no disk of its own. Set by
    # the shell (in units of 512 bytes), because jax warns where Python forks.
    command = [*COMMAND, "--config", "tiny", "--data_dir", str(tmp_path), "--processes", "1"]
    limited = ["sh", "-c", 'ulimit -f 200; exec "$@"', "sh", *command]
    out = subprocess.run(limited, capture_output=True, text=True)
    assert out.returncode == 2
    assert "File too large" in out.stderr and "Traceback" not in out.stderr
    (unfinished,) = tmp_path.glob("oclr_syn/tiny/*")
    assert [path.name for path in unfinished.iterdir()] == ["metadata.json"]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_interrupt_leaves_nothing_that_looks_finished(tmp_path, number):
    command = [*COMMAND, "--config", "syn_val", "--data_dir", str(tmp_path), "--processes", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    # The temporary file appears when the rendering process has begun.
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob(".oclr-*")) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Run the same command again to resume" in errors and "Traceback" not in errors
    (unfinished,) = tmp_path.glob("oclr_syn/syn_val/*")
    assert unfinished.suffix == ".unfinished"
    assert [path.name for path in unfinished.iterdir()] == ["metadata.json"]

"""The training command with data and workdir in a bucket, `gs://`: a server on this machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load

from tests.launch.bucket_server import serving

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_a_training_in_a_bucket_survives_what_one_on_a_disk_does(tmp_path, data_dir):
    with serving() as (bucket, environment):

        def train(workdir, steps: int, data="gs://bucket/data") -> str:
            command = f"{sys.executable} launch/train.py --config configs/oclr_flow.py:tiny"
            command += f" --config.data.dir={data} --workdir {workdir} --config.steps={steps}"
            command += " --config.evaluate_every=4 --config.checkpoint_every=2"
            ended = subprocess.run(
                command.split(),
                cwd=ROOT,
                env=os.environ | environment,
                capture_output=True,
                text=True,
            )
            assert ended.returncode == 0, ended.stderr
            return ended.stdout + ended.stderr

        for path in data_dir.rglob("*"):
            if path.is_file():
                bucket.write(f"data/{path.relative_to(data_dir)}", path.read_bytes())
        assert "step 0 of 4" in train("gs://bucket/run", 4)
        # As a kill within a save leaves it: without the mark that the state is whole.
        bucket.objects.pop("run/checkpoints/4/commit_success.txt")
        assert "step 2 of 6" in train("gs://bucket/run", 6)
        for name in bucket.names("run/checkpoints/6/default/"):
            if "/d/" in name:
                bucket.objects.pop(name)
        said = train("gs://bucket/run", 8)
        assert "checkpoint of step 6 is damaged" in said and "step 4 of 8" in said
        assert "run/unreadable_states/6/_CHECKPOINT_METADATA" in bucket.objects
        assert set(bucket.names("run/")) >= {
            "run/config.json",
            "run/curves.png",
            "run/metrics.jsonl",
            "run/report.html",
            "run/strips/clip_0/000000008.png",
        }
        trained = load(bucket.objects["run/weights.safetensors"][0])

        # What was cut short three times is what is never disturbed, on a disk.
        train(tmp_path / "run", 8, data_dir)
        undisturbed = load((tmp_path / "run" / "weights.safetensors").read_bytes())
        assert trained.keys() == undisturbed.keys()
        for name, values in undisturbed.items():
            assert (trained[name] == values).all(), name

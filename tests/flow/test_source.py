"""The flow option: one grammar for every command, and settings that a model was trained with."""

import subprocess
import sys

import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.flow import (
    DIS,
    FlowEstimator,
    FlowFolder,
    from_settings,
    open_estimator,
    open_source,
    write_flo,
)
from oclr_jax.flow.raft import RAFTFlow
from oclr_jax.flow.source import model_estimator, other_flow
from oclr_jax.video.clip import open_clip
from oclr_jax.weights.kinds import RAFT_FLOW
from tests.clips import moving_clip

TRAINED = {"estimator": "dis", "preset": "medium", "height": 64, "width": 96}


def test_the_grammar(raft_weights, monkeypatch, tmp_path):
    folder = tmp_path / "oclr_jax" / "weights"
    folder.mkdir(parents=True)
    (folder / "mine.safetensors").write_bytes(raft_weights.read_bytes())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_estimator("dis") == DIS()
    assert open_estimator("dis:fast") == DIS(preset="fast")
    assert open_estimator(f"raft:{raft_weights}") == RAFTFlow(raft_weights)
    assert open_estimator("raft-small:mine.safetensors").weights == folder / "mine.safetensors"
    assert isinstance(open_estimator("dis"), FlowEstimator)
    assert isinstance(open_estimator(f"raft:{raft_weights}"), FlowEstimator)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("", "no flow estimator ''"),
        ("dos", "no flow estimator 'dos'; choose dis"),
        ("dis:", "ends after the colon; add a preset"),
        ("dis:best", "no preset 'best'"),
        ("raft:", "ends after the colon; add the weights"),
        ("raft", "github.com"),
        ("raft-small:none", "no weights none"),
    ],
)
def test_what_names_no_estimator_is_refused(option, says, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError) as refused:
        open_estimator(option)
    assert says in str(refused.value)


def test_defaults_fill_what_the_option_leaves_open(raft_weights):
    defaults = {"dis": {"height": 32, "width": 48, "preset": "fast"}, "raft": {"rows": None}}
    assert open_estimator("dis", defaults) == DIS(32, 48, "fast")
    assert open_estimator("dis:fine", defaults) == DIS(32, 48, "fine")
    assert open_estimator(f"raft:{raft_weights}", defaults) == RAFTFlow(raft_weights, rows=None)


def test_a_model_gets_the_estimator_that_it_was_trained_with(raft_weights):
    assert model_estimator(None, TRAINED) == DIS(64, 96, "medium")
    assert model_estimator("dis", TRAINED) == DIS(64, 96, "medium")
    assert model_estimator("dis:fast", TRAINED) == DIS(64, 96, "fast")
    raft = RAFTFlow(raft_weights, iterations=3)
    trained = raft.settings() | {"weights": str(raft_weights)}
    assert model_estimator(None, trained) == model_estimator("raft", trained) == raft
    assert model_estimator("dis", trained) == DIS()
    assert model_estimator(f"raft:{raft_weights}", TRAINED) == RAFTFlow(raft_weights)


def test_raft_small_does_not_take_the_weights_of_the_training(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"raft-small\.pth"):
        model_estimator("raft-small", {"estimator": "raft", "weights": "raft-things.pth"})


def test_everything_else_is_a_folder(tmp_path):
    clip = open_clip(moving_clip(3))
    for gap, numbers in ((1, (0, 1)), (-1, (1, 2))):
        for number in numbers:
            path = tmp_path / f"Flows_gap{gap}" / f"{number:05d}.flo"
            write_flo(path, np.ones((4, 6, 2), np.float32))
    source = open_source(tmp_path, TRAINED, clip, (1, -1))
    assert isinstance(source, FlowFolder) and (source.height, source.width) == (4, 6)
    assert isinstance(open_source(str(tmp_path), TRAINED, clip, (1, -1)), FlowFolder)
    for option, says in ((tmp_path / "no", "does not exist"), (path, "is a file, not a folder")):
        with pytest.raises(UserError, match=says):
            open_source(option, TRAINED, clip, (1, -1))


def test_precision_is_that_of_the_option_not_of_the_training(raft_weights):
    option = f"raft:{raft_weights}"
    assert open_estimator(option).settings()["precision"] == "float32"  # on a CPU
    assert open_estimator(option, precision="bfloat16").settings()["precision"] == "bfloat16"
    trained = open_estimator(option, precision="bfloat16").settings()
    trained |= {"weights": str(raft_weights)}
    assert model_estimator(None, trained).precision == "float32"
    assert model_estimator(None, trained, "bfloat16").precision == "bfloat16"
    assert model_estimator("raft", trained, "bfloat16").precision == "bfloat16"
    assert open_estimator("dis", precision="bfloat16") == DIS()
    assert from_settings(trained).precision == "bfloat16"
    with pytest.raises(UserError, match="not 'float16'"):
        open_estimator(option, precision="float16")


def test_a_model_of_raft_flow_needs_raft_or_another_flow_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError) as refused:
        model_estimator(None, RAFT_FLOW)
    for part in ("raft-things.pth", "github.com/princeton-vl/RAFT", "--flow dis"):
        assert part in str(refused.value)
    assert model_estimator("dis", RAFT_FLOW) == DIS()


def test_flow_other_than_that_of_the_training_is_described():
    dis, raft = DIS().settings(), {**RAFT_FLOW, "precision": "float32"}
    assert other_flow(dis, dis) is None
    assert other_flow(RAFT_FLOW, raft | {"rows": None, "iterations": 12, "precision": "x"}) is None
    assert other_flow(RAFT_FLOW, raft | {"weights": "raft-things.safetensors"}) is None
    assert other_flow({"estimator": "dis"}, DIS(preset="fast").settings()) is None
    assert other_flow(RAFT_FLOW, {"folder": "flows"}) is None
    words = other_flow(RAFT_FLOW, dis)
    assert words == "trained on RAFT (raft-things) flow and are used with DIS (fine, 256x448) flow"
    assert other_flow(RAFT_FLOW, raft | {"weights": "raft-small.pth"})
    assert other_flow(dis, DIS(preset="fast").settings())


def test_only_raft_loads_jax():
    code = (
        "import sys\n"
        "from oclr_jax.flow import open_estimator\n"
        "import oclr_jax.flow.to_folder\n"
        "open_estimator('dis')\n"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

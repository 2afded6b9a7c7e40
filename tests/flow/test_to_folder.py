"""`oclr flow`: files that `--flow FOLDER` reads, pictures, the check, and bad input."""

import json

import cv2
import numpy as np
import pytest

from oclr_jax import cli
from oclr_jax.flow import DIS, FlowFolder, gap_flows, read_flo, resize_flow
from oclr_jax.flow.to_folder import flow_to_folder
from oclr_jax.models.parameters import unflatten
from oclr_jax.models.raft import RAFTConfig, parameter_shapes
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights
from tests.cli.commands import refused, write_random_weights
from tests.clips import moving_clip, write_frames

STEMS = ["0", "1", "2", "3"]


@pytest.fixture
def clip(tmp_path):
    return write_frames(tmp_path / "clip", moving_clip(4))


def test_the_folder_is_what_the_flow_option_reads(clip, tmp_path):
    flow_to_folder(clip, tmp_path / "out", DIS())
    names = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.flo"))
    assert names == [
        *(f"Flows_gap-1/{stem}.flo" for stem in "123"),
        *(f"Flows_gap1/{stem}.flo" for stem in "012"),
    ]
    found = np.stack(list(FlowFolder(tmp_path / "out", STEMS)))
    expected = resize_flow(gap_flows(moving_clip(4), (1, -1), DIS()), 64, 96)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_kitti_files_are_read_too(clip, tmp_path):
    for format in ("flo", "kitti"):
        flow_to_folder(clip, tmp_path / format, DIS(), gaps=(2, -2), format=format)
    one, other = (
        np.stack(list(FlowFolder(tmp_path / f, STEMS, (2, -2)))) for f in ("flo", "kitti")
    )
    np.testing.assert_allclose(one, other, atol=1 / 127)
    assert not list((tmp_path / "kitti").rglob("*.flo"))


def test_the_command_prints_the_check_and_paints(capsys, clip, tmp_path):
    arguments = [str(clip), str(tmp_path / "out"), "--gaps=-1,2", "--check", "--color"]
    assert cli.main(["flow", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["gap -1", "gap 2"]
    for line in lines:
        before, after = (float(part.split(" ")[-1]) for part in line.split(","))
        assert after < 0.6 * before
    pictures = sorted((tmp_path / "out" / "Colors_gap2").iterdir())
    assert [path.name for path in pictures] == ["0.png", "1.png"]
    assert cv2.imread(str(pictures[0])).shape == (64, 96, 3)


@pytest.mark.slow
def test_raft_by_file(capsys, clip, tmp_path, raft_weights):
    arguments = ["--flow", f"raft-small:{raft_weights}"]
    assert cli.main(["flow", str(clip), str(tmp_path / "flow"), *arguments]) == 0
    flow = FlowFolder(tmp_path / "flow", STEMS)
    assert (flow.height, flow.width) == (64, 96)
    assert "RAFT flow, computed in float32" in capsys.readouterr().out
    weights = write_random_weights(tmp_path)
    command = ["segment", str(clip), str(tmp_path / "out"), "--weights", str(weights)]
    command += ["--flow", f"raft:{raft_weights}", "--precision", "bfloat16", "--no-overlay"]
    assert cli.main(command) == 0
    settings = json.loads((tmp_path / "out" / "objects.json").read_text())["settings"]
    assert settings["flow"]["estimator"] == "raft"
    assert settings["precision"] == settings["flow"]["precision"] == "bfloat16"
    out, error = capsys.readouterr()
    assert "computed in bfloat16" in out
    assert error.startswith("warning: the weights motion were trained on DIS (medium, 64x96) flow")
    assert "RAFT (small) flow" in error and error.count("\n") == 1


def test_bad_input(capsys, clip, tmp_path, raft_weights, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    out = tmp_path / "out"
    basic = RAFTConfig(small=False)
    zeros = {k: np.zeros(s, np.float32) for k, s in parameter_shapes(basic).items()}
    save_weights(tmp_path / "basic.safetensors", unflatten(zeros), WeightsInfo(basic, "basic"))
    for options, says in (
        (["--gaps", "1,x"], "--gaps takes whole numbers"),
        (["--gaps", "0"], "other than 0"),
        (["--gaps", "1,1"], "different"),
        (["--gaps", "4"], "at least 5 frames"),
        (["--flow", "dis:best"], "no preset 'best'"),
        (["--flow", tmp_path], "no flow estimator"),
        (["--flow", "raft"], "github.com"),
        (["--flow", "raft:nothing"], "no weights nothing"),
        (["--flow", f"raft-small:{tmp_path / 'basic.safetensors'}"], "not RAFT-small"),
    ):
        assert says in refused(capsys, tmp_path, "flow", clip, out, *options)
    assert "does not exist" in refused(capsys, tmp_path, "flow", tmp_path / "none", out)
    (out / "Flows_gap1").mkdir(parents=True)
    assert "already has results" in refused(capsys, tmp_path, "flow", clip, out)


def test_a_gap_longer_than_half_the_clip(tmp_path):
    """20 frames hold 8 pairs at gap 12."""
    frames = moving_clip(20)
    clip = write_frames(tmp_path / "clip", frames)
    flow_to_folder(clip, tmp_path / "out", DIS(), gaps=(12, -15))
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.flo")}
    assert names == {
        *(f"Flows_gap12/{number}.flo" for number in range(8)),
        *(f"Flows_gap-15/{number}.flo" for number in range(15, 20)),
    }
    for gap, number in ((12, 7), (-15, 19)):
        flow = read_flo(tmp_path / "out" / f"Flows_gap{gap}" / f"{number}.flo")[0]
        expected = DIS()(frames[number][None], frames[number + gap][None])
        np.testing.assert_allclose(flow, resize_flow(expected, 64, 96)[0], atol=1e-4)


def test_ctrl_c_leaves_nothing(clip, tmp_path):
    class Interrupted(DIS):
        def __call__(self, first, second):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flow_to_folder(clip, tmp_path / "new" / "out", Interrupted())
    assert not (tmp_path / "new").exists()

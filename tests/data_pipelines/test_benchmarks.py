"""Benchmarks as TFDS datasets: contents equal the originals, flow at the gap, evaluation."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.builders.benchmarks import BUILDERS
from launch.build_benchmark import build, main
from oclr_jax.datasets.benchmarks import BENCHMARKS
from oclr_jax.datasets.built import read_built_benchmark
from oclr_jax.datasets.layouts import find_benchmark_sequences
from oclr_jax.errors import UserError
from oclr_jax.evaluate import evaluate_dataset, evaluate_synthetic, run
from oclr_jax.flow import DIS, gap_flows, open_estimator
from tests.clips import motion_segmenter
from tests.datasets.miniatures import MINIATURES

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def built(name, tmp_path, gap=None, manual=None):
    if manual is None:
        manual = tmp_path / "manual"
        manual.mkdir()
        MINIATURES[name](manual)
    gap = gap or BENCHMARKS[name].gaps[0]
    builder = BUILDERS[name](
        data_dir=tmp_path / "data",
        config=f"gap{gap}",
        estimator=DIS(height=64, width=96, preset="medium"),
    )
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual))
    return builder.data_dir


def test_every_benchmark_has_its_builder():
    assert BUILDERS.keys() == BENCHMARKS.keys()
    for name, builder in BUILDERS.items():
        assert builder.name == name
        gaps = [config.gap for config in builder.BUILDER_CONFIGS]
        assert tuple(gaps) == BENCHMARKS[name].gaps
        for line in BENCHMARKS[name].tree.splitlines():
            assert line in builder.MANUAL_DOWNLOAD_INSTRUCTIONS


@pytest.mark.parametrize("name", BUILDERS)
def test_built_benchmarks_equal_their_originals(tmp_path, name):
    directory = built(name, tmp_path)
    benchmark = BENCHMARKS[name]
    (original,) = find_benchmark_sequences(benchmark, tmp_path / "manual")
    (stored,), flow = read_built_benchmark(benchmark, directory)
    assert (stored.name, stored.folder) == (original.name, original.folder)
    assert stored.stems == original.stems and stored.annotated == original.annotated
    assert stored.boxes == original.boxes
    for number in range(len(original.stems)):
        assert np.array_equal(stored.frame(number), original.frame(number))
    for number in original.annotated:
        assert np.array_equal(stored.annotation(number), original.annotation(number))
    gap = benchmark.gaps[0]
    estimator = DIS(height=64, width=96, preset="medium")
    assert flow == estimator.settings() | {"gap": gap}
    wanted = gap_flows(np.stack(list(original.frames())), (gap, -gap), estimator)
    np.testing.assert_allclose(stored.flow(), wanted, atol=1 / 32)


def test_stored_flow_is_used_at_its_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "load_segmenter", lambda *_: motion_segmenter())
    directory = built("fbms59", tmp_path, gap=3)
    with pytest.raises(UserError, match="has gap 3, not 1"):
        evaluate_dataset("fbms59", directory)
    report = evaluate_dataset("fbms59", directory, gap=3)
    assert report["flow"]["gap"] == report["gap"] == 3
    other = evaluate_dataset("fbms59", tmp_path / "manual", gap=3, flow="dis")
    assert report["title"] == other["title"] == "FBMS-59, 1 of 30 sequences"
    for name, figures in report["mean"].items():
        assert figures["J"] == pytest.approx(other["mean"][name]["J"], abs=0.05)


def test_rendered_data_is_scored_by_modal_and_amodal_masks(tiny_directory, monkeypatch):
    monkeypatch.setattr(run, "load_segmenter", lambda *_: motion_segmenter())
    report = evaluate_synthetic("oclr_syn", tiny_directory)
    assert report["title"] == "oclr_syn (tiny)" and len(report["sequences"]) == 3
    assert 0 < report["mean"]["paper"]["J"] < 1 and 0 < report["mean"]["paper"]["J_amodal"] < 1
    tracks = evaluate_dataset("oclr_syn", tiny_directory)
    assert list(tracks["mean"]) == ["sequence-oracle", "union"]
    assert 0 < tracks["mean"]["union"]["J"] < 1
    with pytest.raises(UserError, match="contains the dataset oclr_syn, not davis2016"):
        evaluate_dataset("davis2016", tiny_directory)


def test_the_real_sequences(shared_dir, tmp_path):
    data = shared_dir / "data" / "davis2016_dev"
    if not data.is_dir():
        pytest.skip("needs the real sequences, which are not here")
    sequences = find_benchmark_sequences(BENCHMARKS["davis2016"], data)
    assert {sequence.name: len(sequence.annotated) for sequence in sequences} == {
        "blackswan": 50,
        "car-shadow": 40,
        "dance-twirl": 90,
        "horsejump-high": 50,
    }
    with pytest.raises(UserError, match="none of the 30 sequences"):
        find_benchmark_sequences(BENCHMARKS["davis2016"], data, "train")
    stored, flow = read_built_benchmark(
        BENCHMARKS["davis2016"], built("davis2016", tmp_path, manual=data)
    )
    assert flow["gap"] == 1
    by_name = {sequence.name: sequence for sequence in stored}
    assert len(stored) == len(sequences)
    for original in sequences:
        again = by_name[original.name]
        assert again.stems == original.stems
        assert again.annotated == original.annotated
        last = original.annotated[-1]
        assert np.array_equal(again.frame(last), original.frame(last))
        assert np.array_equal(again.annotation(last), original.annotation(last))
        assert again.flow().shape[::3] == (len(original.stems), 4)


def test_the_command_rejects_wrong_input(tmp_path, capsys):
    arguments = ["--dataset", "davis2016", "--data_dir", str(tmp_path / "data")]
    for manual, more, says in (
        (tmp_path / "no", [], "does not exist"),
        (tmp_path, [], "expected JPEGImages/480p"),
        (tmp_path, ["--gap", "3"], "at gap 1, not 3"),
    ):
        assert main([*arguments, "--manual_dir", str(manual), *more]) == 2
        assert says in capsys.readouterr().err.splitlines()[-1]


def test_the_command_builds_once(tmp_path):
    MINIATURES["davis2016"](tmp_path / "manual")
    arguments = ("davis2016", tmp_path / "manual", tmp_path / "data", None, "dis:ultrafast")
    directory = build(*arguments)
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert build(*arguments) == directory
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    with pytest.raises(UserError, match="exists with flow of .*ultrafast.*not of .*fast"):
        build(*arguments[:4], "dis:fast")


def test_flow_may_be_that_of_raft(tmp_path, raft_weights):
    MINIATURES["davis2016"](tmp_path / "manual")
    arguments = ["--dataset", "davis2016", "--manual_dir", str(tmp_path / "manual")]
    arguments += ["--data_dir", str(tmp_path / "data"), "--flow", f"raft:{raft_weights}"]
    assert main(arguments) == 0
    directory = tmp_path / "data" / "davis2016" / "gap1" / "1.0.0"
    (sequence,), flow = read_built_benchmark(BENCHMARKS["davis2016"], directory)
    assert flow == open_estimator(f"raft:{raft_weights}").settings() | {"gap": 1}
    assert sequence.flow().shape == (8, 48, 64, 4)

"""Evaluation from end to end: datasets, model or masks, what is kept, what is refused."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from oclr_jax import cli
from oclr_jax.datasets.layouts import BenchmarkSequence, split_long_sequence
from oclr_jax.errors import UserError
from oclr_jax.evaluate import evaluate_dataset, format_table, run
from oclr_jax.evaluate.baseline import baseline_of
from oclr_jax.evaluate.predictions import predict_sequence, sequence_flows
from oclr_jax.flow import from_settings, gap_flows, write_flo
from oclr_jax.ops.metrics import jaccard
from oclr_jax.show.html import format_number
from oclr_jax.video.png import read_ids, write_ids, write_png
from tests.clips import INFO, motion_segmenter, moving_clip, square_masks, write_frames

ALL = ("paper", "sequence-oracle", "davis-unsupervised", "no-oracle", "union")


@pytest.fixture(autouse=True)
def motion_model(monkeypatch):
    monkeypatch.setattr(run, "load_segmenter", lambda *_: motion_segmenter())


def make_dataset(root, resolution="480p", binary=True, frames=9):
    """Two sequences, annotated as DAVIS2016 (`binary`) or with an id for each object."""
    for name, seed in (("first", 0), ("second", 20)):
        write_frames(root / "JPEGImages" / resolution / name, moving_clip(frames, seed=seed))
        for number, ids in enumerate(square_masks(frames)):
            path = root / "Annotations" / resolution / name / f"{number}.png"
            if binary:
                write_png(path, (ids > 0) * np.uint8(255))
            else:
                write_ids(path, ids)
    return root


def evaluate(root, **options):
    return evaluate_dataset("folder", root, quiet=True, **options)


@pytest.mark.parametrize("resolution", ["480p", ""])
def test_both_layouts_and_the_table(tmp_path, resolution):
    report = evaluate(make_dataset(tmp_path / "my data", resolution))
    assert report["title"] == "my data"
    assert list(report["sequences"]) == ["first", "second"]
    mean = report["mean"]
    assert list(mean) == ["paper", "sequence-oracle", "union"]
    # Both squares are foreground: one layer can have but one of them, the union has both.
    assert 0.3 < mean["paper"]["J"] < 0.5
    assert 0.3 < mean["sequence-oracle"]["J"] < 0.5
    assert mean["union"]["J"] > 0.6
    table = format_table(report)
    for protocol, figures in mean.items():
        numbers = f"J&F {figures['J&F']:.3f} J {figures['J']:.3f} F {figures['F']:.3f}"
        shown = f"{protocol} ({report['scored_on'][protocol]}) {numbers}"
        assert shown in table.splitlines()[-1]
    assert "gap 1" in table and table.count("all but first and last frames") == 2


def test_objects_are_matched_one_to_one(tmp_path):
    report = evaluate(make_dataset(tmp_path, binary=False), protocols=ALL)
    for protocol in ("paper", "sequence-oracle", "davis-unsupervised"):
        assert report["mean"][protocol]["J"] > 0.6
        assert report["sequences"]["first"][protocol]["objects"].keys() == {"1", "2"}
        assert report["sequences"]["first"][protocol]["frames"] == "all"
    for protocol in ("sequence-oracle", "davis-unsupervised"):
        assert (
            0.6 < report["mean"][protocol]["HOTA"] <= 1 and report["mean"][protocol]["IDF1"] > 0.9
        )
        assert report["sequences"]["first"][protocol]["id_switches"] == 0
    assert "IDF1" not in report["mean"]["paper"] and "IDF1" not in report["mean"]["union"]


def test_flow_from_a_folder_of_sequences(tmp_path):
    root = make_dataset(tmp_path / "data")
    for name, seed in (("first", 0), ("second", 20)):
        frames = moving_clip(9, seed=seed)
        for gap in (1, -1):
            flows = gap_flows(frames, (gap, -gap), from_settings(INFO.flow))[..., :2]
            for number, flow in enumerate(flows):
                if 0 <= number + gap < 9:
                    write_flo(tmp_path / f"Flows_gap{gap}" / name / f"{number}.flo", flow)
    assert evaluate(root, flow=tmp_path)["sequences"] == evaluate(root)["sequences"]


def test_flow_by_raft(tmp_path, raft_weights):
    report = evaluate(make_dataset(tmp_path, frames=5), flow=f"raft:{raft_weights}")
    assert report["flow"]["estimator"] == "raft"
    assert 0 <= report["mean"]["paper"]["J"] < 0.5


def test_a_part_of_a_long_sequence_finds_its_flow(tmp_path):
    picture = moving_clip(2)[0]
    whole = BenchmarkSequence(
        name="a",
        folder="a",
        stems=[str(number) for number in range(100)],
        frame=lambda number: picture,
        annotated=[0, 60],
        annotation=lambda number: np.ones(picture.shape[:2], np.uint8),
    )
    for gap in (1, -1):
        for number in range(100):
            flow = np.full((32, 48, 2), number, np.float32)
            write_flo(tmp_path / f"Flows_gap{gap}" / "a" / f"{number}.flo", flow)
    _, second = split_long_sequence(whole)
    asked = []

    def predict(_, flow):
        asked.append(flow[0, :, 0, 0, 0].tolist())
        return np.full((1, 6, 32, 48, 3), 0.9, np.float32), np.zeros((1, 3), np.float32)

    model = dataclasses.replace(motion_segmenter(), predict=predict)
    flows = sequence_flows(model, second, tmp_path)
    found = predict_sequence(model, second, flows, ["paper", "union"])
    assert asked[0] == [50, 51, 52, 53, 54, 55]
    assert found.windows[0][0] == [0, 1, 2, 3, 4, 5] and found.tracks.all()


def test_the_gap_stands_beside_the_number_and_makes_a_difference(tmp_path):
    root = make_dataset(tmp_path)
    one, three = evaluate(root), evaluate(root, gap=3)
    assert (one["gap"], three["gap"]) == (1, 3)
    assert "gap 3" in format_table(three)
    assert one["mean"] != three["mean"]


def test_only_annotated_frames_count(tmp_path):
    root = make_dataset(tmp_path, binary=False)
    whole = evaluate(root, protocols=["paper"])["sequences"]["second"]
    for number in (0, 3, 4, 8):
        (root / "Annotations" / "480p" / "first" / f"{number}.png").unlink()
    report = evaluate(root, protocols=["paper"])
    assert report["mean"]["paper"]["J"] > 0.6
    assert report["sequences"]["second"] == whole


def test_output_keeps_figures_masks_and_the_report(tmp_path):
    root, output = make_dataset(tmp_path / "data"), tmp_path / "out"
    report = evaluate(root, output=output)
    assert json.loads((output / "metrics.json").read_text()) == report
    with open(output / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 + 3 and {row["gap"] for row in rows} == {"1"}
    assert {(row["protocol"], row["scored_on"]) for row in rows} == {
        ("paper", "windows"),
        ("sequence-oracle", "tracks"),
        ("union", "tracks"),
    }
    assert float(rows[-1]["J"]) == report["mean"]["union"]["J"]
    paper = np.stack([read_ids(output / "masks/paper/first" / f"{i}.png") for i in range(1, 8)])
    j = jaccard(paper > 0, square_masks(9)[1:8] > 0).mean()
    assert j == pytest.approx(report["sequences"]["first"]["paper"]["J"])
    page = (output / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2 and "sequence-oracle" in page


def test_the_report_has_the_geometric_baseline_on_the_same_flow(tmp_path, monkeypatch):
    root, output = make_dataset(tmp_path / "data"), tmp_path / "out"
    report = evaluate(root, output=output)
    baseline = json.loads((output / "geometric" / "metrics.json").read_text())
    assert (report["model"], baseline["model"]) == ("oclr", "geometric")
    for name in ("flow", "gap", "grid", "window", "protocol_names"):
        assert baseline[name] == report[name]
    page = (output / "report.html").read_text()
    for model, means in (("oclr", report["mean"]), ("geometric", baseline["mean"])):
        for protocol, figures in means.items():
            cells = [protocol, report["scored_on"][protocol], model]
            row = "".join(f"<td>{cell}</td>" for cell in cells)
            assert f"{row}<td class=number>{format_number(figures['J'])}</td>" in page
    monkeypatch.setattr(run, "load_segmenter", lambda *_: baseline_of(motion_segmenter()))
    alone = evaluate(root, output=tmp_path / "alone")
    assert alone["sequences"] == baseline["sequences"]
    assert not (tmp_path / "alone" / "geometric").exists()


def test_it_goes_on_where_it_stopped(tmp_path, monkeypatch):
    root, output = make_dataset(tmp_path / "data"), tmp_path / "out"
    real, asked = run.predict_sequence, []

    def stopped(segmenter, sequence, *rest):
        asked.append(sequence.name)
        if len(asked) == 4:
            raise KeyboardInterrupt
        return real(segmenter, sequence, *rest)

    monkeypatch.setattr(run, "predict_sequence", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate(root, output=output)
    assert not (output / "metrics.json").exists()
    report = evaluate(root, output=output)
    # The model and the baseline, each once; the baseline again where it was stopped.
    assert asked == ["first"] * 2 + ["second"] * 3
    assert evaluate(root, output=output) == report and len(asked) == 5
    assert report["sequences"] == evaluate(root)["sequences"]
    arguments = ["--data", str(root), "--output", str(output), "--protocol", "union"]
    assert cli.main(["evaluate", "--dataset", "folder", *arguments]) == 2


def test_figures_of_other_weights_are_not_kept(tmp_path, monkeypatch):
    root, output = make_dataset(tmp_path / "data"), tmp_path / "out"
    evaluate(root, output=output)
    retrained = dataclasses.replace(motion_segmenter(), params={"a": np.ones(3, np.float32)})
    monkeypatch.setattr(run, "load_segmenter", lambda *_: retrained)
    with pytest.raises(UserError, match="another weights_sha256"):
        evaluate(root, output=output)


def write_results(folder, shift=0):
    for name in ("first", "second"):
        for number, ids in enumerate(square_masks(9)):
            write_ids(folder / name / f"{number}.png", np.roll(ids, shift, axis=1))
    return folder


def test_masks_of_a_folder(tmp_path):
    root, results = make_dataset(tmp_path / "data", binary=False), write_results(tmp_path / "in")
    report = evaluate(root, results=results, protocols=ALL, output=tmp_path / "out")
    assert {figures["J"] for figures in report["mean"].values()} == {1.0}
    assert report["weights"] is None and "masks in" in format_table(report)
    assert "masks of a folder" not in (tmp_path / "out" / "report.html").read_text()
    moved = evaluate(root, results=write_results(tmp_path / "moved", 3), protocols=ALL)
    truth = square_masks(9)
    wanted = jaccard(np.roll(truth, 3, axis=2) == 1, truth == 1).mean()
    for protocol in ("paper", "sequence-oracle", "davis-unsupervised"):
        first = moved["sequences"]["first"][protocol]["objects"]["1"]["J"]
        assert first == pytest.approx(wanted)


def black_and_white(path, ids):
    Image.fromarray((ids > 0) * np.uint8(255)).save(path)


def test_masks_in_black_and_white_are_one_foreground(tmp_path):
    root, results = make_dataset(tmp_path / "data"), write_results(tmp_path / "in")
    for name in ("first", "second"):
        for number, ids in enumerate(square_masks(9)):
            black_and_white(results / name / f"{number}.png", ids)
    assert evaluate(root, results=results)["mean"]["paper"]["J"] == 1


def test_bad_masks_are_named_each(tmp_path, capsys):
    root, results = make_dataset(tmp_path / "data"), write_results(tmp_path / "in")
    folder, ids = results / "first", square_masks(9)[4]
    (folder / "1.png").unlink()
    write_ids(folder / "2.png", ids[:-2])
    Image.fromarray(np.stack([ids] * 3, axis=-1)).save(folder / "3.png")
    Image.fromarray(ids.astype(np.uint16) * 300).save(folder / "4.png")
    strange = Image.fromarray(ids)
    strange.putpalette([0, 0, 0, 7, 77, 177, 9, 9, 99])
    strange.save(folder / "5.png")
    (folder / "6.png").write_bytes(b"no picture")
    Image.fromarray(np.array([0, 38, 75], np.uint8)[ids]).save(folder / "7.png")
    arguments = ["--data", str(root), "--results", str(results), "--output", str(tmp_path / "o")]
    assert cli.main(["evaluate", "--dataset", "folder", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "7 files" in error
    for said in (
        "1.png is missing",
        "2.png is 96x62 and its frame 96x64",
        "3.png is an image of mode RGB",
        "4.png has ids up to 600, beyond 255",
        "5.png does not have the DAVIS palette",
        "6.png is not a complete PNG",
        "7.png is grey with values such as 75",
    ):
        assert f"first/{said}" in error
    assert not (tmp_path / "o").exists()


def test_frames_that_do_not_count_need_no_mask(tmp_path):
    root, results = make_dataset(tmp_path / "data"), write_results(tmp_path / "in")
    for name in ("first", "second"):
        (results / name / "0.png").unlink()
    assert evaluate(root, results=results, protocols=["union"])["mean"]["union"]["J"] == 1
    arguments = ["--data", str(root), "--results", str(results), "--protocol", "paper"]
    assert cli.main(["evaluate", "--dataset", "folder", *arguments]) == 2


def test_paper_refuses_more_ids_than_layers_in_a_window(tmp_path, capsys):
    root, results = make_dataset(tmp_path / "data"), write_results(tmp_path / "in")
    ids = square_masks(9)[3]
    ids[-2:, :8] = np.repeat([[3, 4, 5, 6]], 2, axis=1)
    write_ids(results / "first" / "3.png", ids)
    arguments = ["--data", str(root), "--results", str(results), "--protocol", "paper"]
    assert cli.main(["evaluate", "--dataset", "folder", *arguments]) == 2
    assert "at most 3 in a window of 30 frames" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["read_truth", "sequence_strip", "score_sequence"])
def test_an_evaluation_that_was_stopped_in_its_first_sequence_is_resumed(
    tmp_path, monkeypatch, place
):
    def stopped(*_):
        raise KeyboardInterrupt

    root, output = make_dataset(tmp_path / "data"), tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run, place, stopped)
        evaluate(root, output=output)
    assert evaluate(root, output=output) == evaluate(root)
    assert not list(output.rglob(".oclr-*"))


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda root: None, "does not exist"),
        (lambda root: root.mkdir(), "JPEGImages and Annotations"),
        (lambda root: no_sequences(root), "no sequences"),
        (lambda root: without_annotations(root), "has no annotations"),
        (lambda root: other_names(root), "no annotation that is named as a frame"),
        (lambda root: other_size(root), "must have one size"),
        (lambda root: all_empty(root), "all empty"),
    ],
)
def test_bad_datasets(tmp_path, capsys, spoil, says):
    spoil(tmp_path / "data")
    output = tmp_path / "out"
    arguments = ["--data", str(tmp_path / "data"), "--output", str(output), "--quiet"]
    assert cli.main(["evaluate", "--dataset", "folder", *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "data"] == []


def test_an_unknown_protocol(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--protocol", "paper,oracle"]
    assert cli.main(["evaluate", "--dataset", "folder", *arguments]) == 2
    assert "no protocol 'oracle'" in capsys.readouterr().err


def no_sequences(root):
    (root / "JPEGImages").mkdir(parents=True)
    (root / "Annotations").mkdir()


def without_annotations(root):
    make_dataset(root)
    folder = root / "Annotations" / "480p" / "second"
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def other_names(root):
    make_dataset(root)
    for path in (root / "Annotations" / "480p" / "first").iterdir():
        path.rename(path.with_name(f"x{path.name}"))


def other_size(root):
    make_dataset(root)
    path = root / "Annotations" / "480p" / "first" / "4.png"
    write_png(path, read_ids(path)[:-2])


def all_empty(root):
    make_dataset(root)
    for path in (root / "Annotations" / "480p" / "first").iterdir():
        write_png(path, np.zeros((64, 96), np.uint8))

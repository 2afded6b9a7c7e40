"""The comparison with the paper's tables: placement of figures, skipped runs, messages."""

import csv
import json

import numpy as np
import pytest

from configs.oclr_flow import get_config
from launch.reports.ablations import NOT_TRAINED, changed_fields
from launch.reports.tables import main
from oclr_jax.datasets.ablations import COLUMNS, EXPERIMENTS, REPEATS, REPEATS_MEAN, REPEATS_STD
from oclr_jax.evaluate.settings import params_digest
from oclr_jax.models.oclr import OCLR
from oclr_jax.train.tasks.segmentation import init_params, model_config
from oclr_jax.weights.description import WeightsInfo
from oclr_jax.weights.file import save_weights

TITLES = {
    "davis2016": "DAVIS2016",
    "syn_val": "oclr_syn (syn_val)",
    "davis2017_motion": "DAVIS2017-motion",
}


@pytest.fixture(scope="module")
def params():
    config = model_config(get_config("tiny"))
    return config, init_params(OCLR(config), seed=0)


def finish(workdir, params, name="ours_g", seed=0, scores=(), **changes):
    """The workdir of a finished run. `scores`: (dataset, title, J) of its evaluations."""
    config = get_config(name)
    config.seed = seed
    config.update_from_flattened_dict(changes.pop("fields", {}))
    steps = changes.pop("steps", config.steps)
    assert not changes
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(config.to_json_best_effort())
    model, arrays = params
    # Weights that depend on the seed, so that their fingerprints differ.
    arrays = {**arrays, "query": np.full_like(arrays["query"], seed)}
    info = WeightsInfo(model=model, flow={"estimator": "dis"}, data_version="2.0.0",
                       name=name, card={"steps": steps})  # fmt: skip
    save_weights(workdir / "weights.safetensors", arrays, info, dtype="float32")
    for dataset, title, j in scores:
        write_metrics(workdir, dataset, title, j, params_digest(arrays))
    return workdir


def write_metrics(workdir, dataset, title, j, sha256):
    path = workdir / "evaluation" / dataset / "metrics.json"
    path.parent.mkdir(parents=True)
    report = {
        "dataset": "oclr_syn" if dataset.startswith("syn") else dataset,
        "title": title,
        "weights_sha256": sha256,
        "flow": {"estimator": "dis"},
        "sequences": {"a": {}},
        "mean": {"paper": {"J": j, "J_amodal": j / 2}, "no-oracle": {"J": 0.99}},
    }
    path.write_text(json.dumps(report))


def collect(*arguments, capsys):
    assert main(["ablations", *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in out.splitlines()
        if line.startswith("|")
    ]
    return out, rows


def cells(rows, *starts):
    """The rows that start with these cells."""
    return [row for row in rows if tuple(row[: len(starts)]) == starts]


def test_the_papers_repeats_have_the_papers_mean_and_deviation():
    repeats = np.array(REPEATS)
    np.testing.assert_allclose(repeats.mean(axis=0), REPEATS_MEAN, atol=0.0501)
    np.testing.assert_allclose(repeats.std(axis=0), REPEATS_STD, atol=0.0501)
    default = next(each for each in EXPERIMENTS if each.name == "ours_g")
    assert default.figures == REPEATS[0]
    assert all(len(each.figures) == len(COLUMNS[each.table]) for each in EXPERIMENTS)


def test_table_1_has_these_letters():
    letters = {each.table_1: each.name[-1].upper() for each in EXPERIMENTS if each.table_1}
    assert letters == {"A": "D", "B": "F", "C": "G", "D": "H", "E": "I"}


def test_our_figures_are_never_in_the_papers_columns(tmp_path, params, capsys):
    scores = [("davis2016", "DAVIS2016", 0.701), ("syn_val", "oclr_syn (syn_val)", 0.8)]
    one = finish(tmp_path / "h", params, "ours_h", scores=scores)
    out, rows = collect(one, capsys=capsys)
    (row,) = cells(rows, "Ours-H")
    assert row[1:7] == ["D", "T = 15", "71.3", "53.5", "82.8", "83.0"]
    assert row[7:] == ["the paper's", "0", "70.1 [dis flow]", "not evaluated", "80.0", "40.0"]
    (head,) = cells(rows, "experiment", "table 1", "setting", "paper: DAVIS2016",
                    "paper: DAVIS2017-motion")  # fmt: skip
    assert head[9:] == ["ours: DAVIS2016", "ours: DAVIS2017-motion", "ours: own Syn-Val modal",
                        "ours: own Syn-Val amodal"]  # fmt: skip
    (row,) = cells(rows, "Ours-A")
    assert NOT_TRAINED in row and row[3:6] == ["67.4", "52.3", "78.0"] and row[-3:] == [""] * 3
    assert "99.0" not in out


def test_seeds_are_averaged(tmp_path, params, capsys):
    runs = [
        finish(tmp_path / str(seed), params, seed=seed, scores=[("davis2016", "DAVIS2016", j)])
        for seed, j in enumerate((0.721, 0.720, 0.728, 0.721))
    ]
    _, rows = collect(*runs, capsys=capsys)
    (row,) = cells(rows, "Ours-G")
    assert row[8:10] == ["0, 1, 2, 3", "72.2 ± 0.3 (n = 4) [dis flow]"]
    assert [cells(rows, str(n))[0][5:8] for n in (1, 3)] == [
        ["the paper's", "0", "72.1 [dis flow]"],
        ["the paper's", "2", "72.8 [dis flow]"],
    ]
    assert cells(rows, "mean ± std")[0][7] == row[9]


def test_different_runs_are_named_and_not_averaged(tmp_path, params, capsys):
    score = [("davis2016", "DAVIS2016", 0.5)]
    part = [("davis2016", "DAVIS2016, 4 of 20 sequences", 0.6)]
    paper = finish(tmp_path / "a", params, scores=score)
    tiny = finish(tmp_path / "b", params, "ours_g,tiny", scores=score)
    other = finish(tmp_path / "c", params, seed=1, scores=part)
    _, rows = collect(paper, tiny, other, capsys=capsys)
    first, second = sorted(cells(rows, "Ours-G"), key=lambda row: len(row[7]))
    assert first[7:10] == ["the paper's", "0, 1", "evaluated under different conditions"]
    assert "steps=60" in second[7] and "model.height=32" in second[7]
    assert second[9] == "50.0 [dis flow]"
    _, rows = collect(other, capsys=capsys)
    assert cells(rows, "Ours-G")[0][9] == "60.0 [4 of 20 sequences, dis flow]"


def test_ignored_fields_are_no_difference():
    config = json.loads(get_config("ours_e").to_json_best_effort())
    config |= {"seed": 7, "log_every": 1, "field_of_another_version": 1}
    config["data"]["dir"] = "elsewhere"
    assert changed_fields(config, "ours_e") == ()
    config["loss"]["order"] = 0.1
    assert changed_fields(config, "ours_e") == ("loss.order=0.1",)


def test_skipped_runs_are_reported(tmp_path, params, capsys):
    begun = finish(tmp_path / "begun", params, steps=10)
    small = finish(tmp_path / "small", params, "small")
    stale = finish(tmp_path / "stale", params, "ours_i")
    write_metrics(stale, "davis2016", "DAVIS2016", 0.9, "of other weights")
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(get_config("ours_d").to_json_best_effort())
    out, rows = collect(begun, small, stale, bare, capsys=capsys)
    assert f"{begun} is skipped: it is not finished (step 10 of 600,000)" in out
    assert f"{small} is skipped: it is not one of the paper's experiments" in out
    assert f"{bare} is skipped: it has no weights yet" in out
    assert "belongs to other weights than" in out and "90.0" not in out
    assert cells(rows, "Ours-I")[0][9] == "not evaluated"
    assert NOT_TRAINED in cells(rows, "Ours-G")[0]


def test_files(tmp_path, params, capsys):
    run = finish(tmp_path / "run", params, scores=[("davis2016", "DAVIS2016", 0.5)])
    out, rows = collect(run, "--output", tmp_path / "results", capsys=capsys)
    assert (tmp_path / "results" / "results.md").read_text(encoding="utf-8") == out
    with open(tmp_path / "results" / "results.csv", encoding="utf-8", newline="") as file:
        table = list(csv.reader(file))
    assert [row[1:] for row in table if row[0] == "E7" and row[1] == "Ours-G"] == cells(
        rows, "Ours-G"
    )


def test_a_mistake_is_one_sentence_and_status_2(tmp_path, params, capsys):
    assert main(["ablations", str(tmp_path)]) == 2
    assert "is not a training workdir" in capsys.readouterr().err
    one, two = (finish(tmp_path / name, params) for name in ("one", "two"))
    assert main(["ablations", str(one), str(two)]) == 2
    assert "the same experiment with the same seed" in capsys.readouterr().err

"""Steps that are not finite: named, skipped up to a bound, kept and run again."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from configs.oclr_flow import get_config
from oclr_jax.errors import UserError
from oclr_jax.train.loop import train
from oclr_jax.train.nonfinite import NonFiniteSteps, read_batch
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.replay import replay
from tests.train.squares import squares, squares_data

NAN = float("nan")


@pytest.fixture
def config():
    config = get_config("small,tiny")
    config.model.channels = (4, 8)
    config.model.height = config.model.width = 16
    config.model.frames = 3
    config.steps = 4
    config.log_every = 2
    config.evaluate_every = 4
    config.checkpoint_every = 1
    return config


def broken_from(data, first, last=None):
    """The same data with one value that is not a number in these batches."""

    def batches(start):
        for index, batch in enumerate(data.batches(start), start):
            if index >= first and (last is None or index <= last):
                batch["flow"][1, 0, 0, 0, 0] = np.nan
            yield batch

    return dataclasses.replace(data, batches=batches, samples=lambda step: f"squares {step}")


def test_a_skipped_step_is_named_and_left_out(tmp_path, config, capsys):
    config.on_nonfinite = "skip"
    data = broken_from(squares_data(config), 1, 1)
    state = train(config, tmp_path, data)
    assert int(state.step) == 4
    assert np.isfinite(np.asarray(state.params["query"])).all()
    assert "Skipped step 2: the loss is nan" in capsys.readouterr().out
    rows = [row for row in read_rows(tmp_path / "metrics.jsonl") if row["kind"] == "train"]
    assert rows[0]["skipped"] == 1 and np.isfinite(rows[0]["loss"])
    assert "skipped" not in rows[1]

    # The batch as it was, and the step again from the state before it.
    batch, step, samples = read_batch(tmp_path / "nonfinite" / "step_2.npz", NAMES)
    assert (step, samples) == (2, "squares 1")
    expected = squares(1, 2, 3, 16, 16)
    expected["flow"][1, 0, 0, 0, 0] = np.nan
    for name, value in expected.items():
        np.testing.assert_array_equal(batch[name], value)
    said = replay(config, tmp_path, data, tmp_path / "nonfinite" / "step_2.npz").splitlines()
    # The state of step 1 is not kept, so that step is run again too.
    assert said[0].startswith("step 2 from the state of step 0, squares 1: ")
    assert " loss nan" in said[0]
    assert said[1].startswith("clip 0: 0 of") and said[2].startswith("clip 1: 1 of")


def test_too_many_in_a_row_end_the_training(tmp_path, config):
    config.on_nonfinite, config.max_skips = "skip", 1
    with pytest.raises(UserError, match="step 3: .* on squares 2, after 1 steps in a row"):
        train(config, tmp_path, broken_from(squares_data(config), 1))


def looking(folder, policy="skip", bound=10) -> NonFiniteSteps:
    batch = {name: np.zeros((1, 1, 1, 1, 4 if name == "flow" else 3), np.float32) for name in NAMES}
    return NonFiniteSteps(epath.Path(folder), lambda start: [batch], lambda step: "", policy, bound)


NAMES = ("flow", "amodal", "modal")


def test_skips_count_in_a_row_alone(tmp_path):
    steps = looking(tmp_path, bound=2)
    answers = [steps.look(i, x, 1.0) for i, x in enumerate([NAN, NAN, 1.0, float("inf"), NAN], 1)]
    assert answers == [False, False, True, False, False]
    with pytest.raises(UserError, match="step 6: the loss is 1.0 and the gradient's norm nan"):
        steps.look(6, 1.0, NAN)


def test_the_disk_is_not_filled_with_batches(tmp_path, capsys):
    steps = looking(tmp_path, bound=100)
    for step in range(12):
        steps.look(step, NAN, NAN)
    assert len(list((tmp_path / "nonfinite").iterdir())) == 10
    assert "not kept" in capsys.readouterr().out.splitlines()[-1]


def test_what_is_not_a_kept_batch_is_told(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, step=np.array(["a"], dtype=object), allow_pickle=True)
    for name in (path, tmp_path / "none.npz"):
        with pytest.raises(UserError, match="is not a batch that a training kept"):
            read_batch(name, NAMES)


def test_an_unknown_policy_is_told(tmp_path):
    with pytest.raises(UserError, match="choose stop or skip"):
        looking(tmp_path, policy="hope")

"""Steps that are not finite: named, skipped up to a bound, kept and run again."""

import dataclasses

import numpy as np
import pytest
from etils import epath

from oclr_jax.errors import UserError
from oclr_jax.train.data import TrainingData
from oclr_jax.train.nonfinite import NonFiniteSteps, read_batch
from oclr_jax.train.record.journal import read_rows
from oclr_jax.train.replay import replay
from tests.train.toy import Toy, toy_batch, toy_config, toy_data, train_toy

NAN = float("nan")
NAMES = ("x", "y")


@pytest.fixture
def config():
    config = toy_config()
    config.steps = 4
    config.evaluate_every = 4
    config.checkpoint_every = 1
    return config


def broken_from(first, last=None):
    """The toy data, with one value that is not a number in these batches."""
    data = toy_data(4)

    def batches(start):
        for index, batch in enumerate(data.train_batches(start), start):
            if index >= first and (last is None or index <= last):
                batch["x"][1, 0] = np.nan
            yield batch

    return dataclasses.replace(data, train_batches=batches)


def test_a_skipped_step_is_named_kept_and_run_again(tmp_path, config, capsys):
    config.on_nonfinite = "skip"
    data = broken_from(1, 1)
    state = train_toy(config, tmp_path, data)
    assert int(state.step) == 4
    assert np.isfinite(np.asarray(state.params["head"]["kernel"])).all()
    assert "Skipped step 2: the loss is nan" in capsys.readouterr().out
    rows = [row for row in read_rows(tmp_path) if row["kind"] == "train"]
    assert rows[0]["skipped"] == 1 and np.isfinite(rows[0]["loss"])
    assert "skipped" not in rows[1]

    # The batch as it was, and the step again from the checkpoint before it.
    kept = tmp_path / "nonfinite" / "step_2.npz"
    batch, step, examples = read_batch(kept, NAMES)
    assert (step, examples) == (2, "toys 1")
    expected = toy_batch(1, 4)
    expected["x"][1, 0] = np.nan
    for name, value in expected.items():
        np.testing.assert_array_equal(batch[name], value)
    lines = replay(config, tmp_path, Toy(), data, kept).splitlines()
    # The checkpoint of step 1 is not kept, so that step is run again too.
    assert lines[0].startswith("step 2 from the checkpoint of step 0, toys 1: ")
    assert "loss nan" in lines[0]
    assert lines[1].startswith("example 0: x: 0 of 3 values not finite, largest")
    assert lines[2].startswith("example 1: x: 1 of 3 values not finite, largest")


def test_a_finite_step_is_replayed_as_it_was(tmp_path, config):
    """From the checkpoint before it, with the model state and the random numbers of then."""
    train_toy(config, tmp_path)
    path = tmp_path / "step_4.npz"
    np.savez(path, step=4, samples="", **toy_batch(3, 4))
    (head, *_) = replay(config, tmp_path, Toy(), toy_data(4), path).splitlines()
    config.log_every = 1
    train_toy(config, tmp_path / "again")
    (row,) = (r for r in read_rows(tmp_path / "again") if (r["kind"], r["step"]) == ("train", 4))
    assert head.startswith("step 4 from the checkpoint of step 3: ")
    assert f"loss {row['loss']:.6g}" in head


def test_too_many_in_a_row_end_the_training(tmp_path, config):
    config.on_nonfinite, config.max_skips = "skip", 1
    with pytest.raises(UserError, match="step 3: .* on toys 2, after 1 skipped steps in a row"):
        train_toy(config, tmp_path, broken_from(1))


def make_steps(folder, policy="skip", bound=10) -> NonFiniteSteps:
    data = TrainingData(lambda start: [toy_batch(0, 1)], list, {})
    return NonFiniteSteps(epath.Path(folder), data, policy, bound)


def test_skips_count_in_a_row_alone(tmp_path):
    steps = make_steps(tmp_path, bound=2)
    answers = [steps.check(i, x, 1.0) for i, x in enumerate([NAN, NAN, 1.0, float("inf"), NAN], 1)]
    assert answers == [False, False, True, False, False]
    with pytest.raises(UserError, match="step 6: the loss is 1.0 and the norm of the gradient nan"):
        steps.check(6, 1.0, NAN)


def test_the_disk_is_not_filled_with_batches(tmp_path, capsys):
    steps = make_steps(tmp_path, bound=100)
    for step in range(12):
        steps.check(step, NAN, NAN)
    assert len(list((tmp_path / "nonfinite").iterdir())) == 10
    assert "not kept" in capsys.readouterr().out.splitlines()[-1]


def test_what_is_not_a_kept_batch_is_refused(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, step=np.array(["a"], dtype=object), allow_pickle=True)
    for name in (path, tmp_path / "none.npz"):
        with pytest.raises(UserError, match="is not a batch that a training kept"):
            read_batch(name, NAMES)


def test_an_unknown_policy_is_refused(tmp_path):
    with pytest.raises(UserError, match="choose stop or skip"):
        make_steps(tmp_path, policy="hope")

"""Checkpoints: bit-exact though the next step reuses the state, the right ones kept, damage."""

import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from oclr_jax.errors import UserError
from oclr_jax.train.checkpoints import UNREADABLE, Checkpoints, load_checkpoint_variables
from oclr_jax.train.state import TrainState


def first_state(ema: bool = True) -> TrainState:
    w = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    params = {"a": {"w": jnp.asarray(w), "b": jnp.ones(7)}, "c": jnp.arange(5.0)}
    moments = ({}, (jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params)))
    copy = jax.tree.map(jnp.copy, params) if ema else None
    return jax.device_put(
        TrainState(jnp.zeros((), jnp.int32), params, moments, {"s": jnp.ones(3)}, copy)
    )


def moved(state: TrainState) -> TrainState:
    return jax.tree.map(lambda x: x + 1, state)


move = jax.jit(moved, donate_argnums=0)


def after(steps: int, ema: bool = True) -> TrainState:
    state = first_state(ema)
    for _ in range(steps):
        state = move(state)
    return state


def assert_same(ours, theirs) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def saved(folder: Path, steps: int, *, keep: int = 3, ema: bool = True) -> None:
    """Checkpoints of the first steps, each saved while the next step already reuses its memory."""
    states, state = Checkpoints(folder, keep), first_state(ema)
    for step in range(1, steps + 1):
        state = move(state)
        states.save(step, state)
    states.close()


def newest(folder: Path, **options) -> TrainState | None:
    states = Checkpoints(folder, 3)
    try:
        return states.restore_newest(first_state(), **options)
    finally:
        states.close()


def test_a_state_is_what_it_was_when_it_was_saved(tmp_path):
    saved(tmp_path, 3)
    for step in (3, 2, 1):
        assert_same(newest(tmp_path, before=step + 1), after(step))
    assert newest(tmp_path, before=1) is None
    assert newest(tmp_path / "empty") is None


def test_the_newest_and_the_best_stay(tmp_path):
    state = first_state()
    scores = {1: 0.5, 2: 0.9, 3: None, 4: 0.1, 5: 0.7, 6: None, 7: 0.2}
    for part in ((1, 2, 3), (4, 5, 6, 7)):  # in two runs of the program
        states = Checkpoints(tmp_path, keep=2, keep_best=2)
        for step in part:
            states.save(step, state, scores[step])
        states.close()
    assert {int(path.name) for path in tmp_path.iterdir()} == {2, 5, 6, 7}


def test_what_a_killed_program_left_is_removed(tmp_path):
    saved(tmp_path, 1)
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert_same(newest(tmp_path), after(1))
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def largest_file(folder: Path) -> Path:
    return max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def wrong_byte(folder: Path) -> None:
    path = largest_file(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


DAMAGES = {
    "cut off": lambda folder: largest_file(folder).write_bytes(
        largest_file(folder).read_bytes()[: largest_file(folder).stat().st_size // 2]
    ),
    "emptied": lambda folder: [shutil.rmtree(folder), folder.mkdir()],
    "empty files": lambda folder: [p.write_bytes(b"") for p in folder.rglob("*") if p.is_file()],
    "half deleted": lambda folder: shutil.rmtree(largest_file(folder).parent),
    "one wrong byte": wrong_byte,
    "without checksums": lambda folder: (folder / "_CHECKPOINT_METADATA").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_the_checkpoint_before_a_damaged_one_is_used(tmp_path, capsys, damage):
    folder = tmp_path / "checkpoints"
    saved(folder, 3)
    damage(folder / "3")
    states = Checkpoints(folder, 3)
    assert_same(states.restore_newest(first_state()), after(2))
    sentence = capsys.readouterr().err
    assert (
        "checkpoint of step 3 is damaged" in sentence and "resumes from that of step 2" in sentence
    )
    # That step can be written again.
    states.save(3, after(3))
    states.close()
    assert_same(newest(folder), after(3))
    assert (tmp_path / UNREADABLE / "3").is_dir()


def test_no_readable_checkpoint_is_an_error(tmp_path):
    saved(tmp_path, 2)
    for step in ("1", "2"):
        DAMAGES["empty files"](tmp_path / step)
    with pytest.raises(UserError, match=r"None of the checkpoints .*\[2, 1\].* can be read"):
        newest(tmp_path)
    with pytest.raises(UserError, match="no readable checkpoint"):
        load_checkpoint_variables(tmp_path)


def test_a_state_of_another_model_is_an_error(tmp_path):
    saved(tmp_path, 1)
    states, other = Checkpoints(tmp_path, 3), first_state()
    other = other.replace(params=other.params | {"c": jnp.zeros(6)})
    with pytest.raises(UserError, match=r"None of .* can be read with this configuration"):
        states.restore_newest(other)
    states.close()


@pytest.mark.parametrize("ema", [True, False])
def test_parameters_and_model_state_are_read_alone(tmp_path, ema):
    saved(tmp_path, 2, ema=ema)
    # The optimizer's state is not read.
    found, step = load_checkpoint_variables(tmp_path)
    assert step == 2
    expected = jax.device_get(after(2, ema).eval_variables({}))
    assert_same(found, {"params": expected.params, "model_state": expected.model_state})


def test_damaged_parameters_are_not_taken(tmp_path, capsys):
    saved(tmp_path, 2)
    DAMAGES["empty files"](tmp_path / "2")
    found, step = load_checkpoint_variables(tmp_path)
    assert step == 1
    assert_same(found["params"], jax.device_get(after(1).ema_params))
    assert "parameters of step 2" in capsys.readouterr().err


@contextmanager
def files_of_at_most(size: int):
    """Limits file sizes, so that writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_without_room_is_told_before(tmp_path, monkeypatch):
    states = Checkpoints(tmp_path, 2)
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: full)
    with pytest.raises(UserError, match=r"cannot be written .*it takes up to 0 MB\); make room"):
        states.save(1, after(1))
    states.close()


def test_a_full_disk_leaves_the_states_before(tmp_path):
    saved(tmp_path, 2)
    states = Checkpoints(tmp_path, 2)
    with files_of_at_most(1000), pytest.raises(UserError, match="cannot be written .*make room"):
        states.save(3, after(3))
        states.close()
    assert_same(newest(tmp_path), after(2))
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}

"""A resumed training has the settings that it began with, or names what is different."""

import json

import pytest

from configs.oclr_flow import get_config
from oclr_jax.errors import UserError
from oclr_jax.train.settings import (
    RESUMABLE_FIELDS,
    check_no_checkpoints_lost,
    check_unchanged,
    lengths_in_steps,
    write_settings,
)


@pytest.fixture
def kept(tmp_path):
    from etils import epath

    path = epath.Path(tmp_path) / "config.json"
    write_settings(get_config("tiny"), path)
    return path


def test_the_same_settings_go_on(kept):
    check_unchanged(get_config("tiny"), kept)
    check_unchanged(get_config("small"), kept.with_name("none"))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("seed", 1, "seed was 0 and is 1"),
        ("batch_size", 3, "batch_size was 2 and is 3"),
        ("model.channels", (4, 8), r"model.channels was \[4, 8, 16\] and is \[4, 8\]"),
        ("data.train", "syn_train", "data.train was 'tiny'"),
        ("loss.order", 1.0, "loss.order was 0.05"),
        ("optimizer.learning_rate", 1.0, "optimizer.learning_rate was 0.003"),
        ("init_weights", "oclr-small", "init_weights was '' and is 'oclr-small'"),
    ],
)
def test_what_changes_the_result_is_named(kept, capsys, field, value, words):
    config = get_config("tiny")
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=words):
        check_unchanged(config, kept)
    config.accept_changes = True
    check_unchanged(config, kept)
    assert "continues with the new ones" in capsys.readouterr().out


def test_what_does_not_change_the_result_may_change(kept):
    config = get_config("tiny")
    config.steps = config.log_every = config.evaluate_every = config.keep_best = 7
    config.data.workers, config.data.dir = 3, "elsewhere"
    check_unchanged(config, kept)


def test_resumable_fields_exist():
    assert set(get_config().keys()) > {name for name in RESUMABLE_FIELDS if "." not in name}
    for name in RESUMABLE_FIELDS:
        room, _, field = name.rpartition(".")
        assert not room or field in get_config()[room]


def test_fields_of_another_version_do_not_count(kept):
    values = json.loads(kept.read_text())
    del values["loss"]["order"]
    values["gone"] = 3
    kept.write_text(json.dumps(values))
    check_unchanged(get_config("tiny"), kept)


@pytest.mark.parametrize("damage", [b"", b'{"seed": 0, "ste', b"[]", b"null", b"\xff\xfe{}", b"3"])
def test_a_damaged_file_of_settings_is_named(kept, damage):
    kept.write_bytes(damage)
    if damage != b"[]":  # an empty list has no fields to compare
        with pytest.raises(UserError, match="config.json is damaged"):
            check_unchanged(get_config("tiny"), kept)
    with pytest.raises(UserError, match="config.json is damaged"):
        check_no_checkpoints_lost(kept.parent)


def test_lost_checkpoints_are_noticed(kept):
    every = get_config("tiny").checkpoint_every
    rows = kept.parent / "metrics.jsonl"
    rows.write_text(json.dumps({"kind": "train", "step": 2 * every}) + "\n")
    check_no_checkpoints_lost(
        kept.parent
    )  # may have been killed while it wrote its first checkpoint
    with rows.open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 2 * every + 1}) + "\n")
    with pytest.raises(UserError, match="its checkpoints are gone"):
        check_no_checkpoints_lost(kept.parent)


def test_lengths_in_samples_are_lengths_lengths_in_steps_of_any_batch_size():
    config = get_config()
    config.length_unit = "samples"
    config.batch_size = 16
    found = lengths_in_steps(config)
    assert (found.steps, found.length_unit) == (37_500, "steps")
    optimizer = found.optimizer
    assert (optimizer.warmup_steps, optimizer.halve_every) == (2_500, 5_000)
    assert (found.log_every, found.evaluate_every, found.checkpoint_every) == (4, 313, 63)
    assert config.steps == 600_000 and config.length_unit == "samples"
    assert lengths_in_steps(found) == found
    changed = {name for name, value in found.items() if value != config[name]}
    lengths = {"steps", "log_every", "evaluate_every", "checkpoint_every"}
    assert changed == lengths | {"optimizer", "length_unit"}


def test_lengths_lengths_in_steps_stay():
    assert lengths_in_steps(get_config("small")) == get_config("small")


def test_lengths_in_what_is_unknown():
    config = get_config("tiny")
    config.length_unit = "epochs"
    with pytest.raises(UserError, match="steps or samples, not 'epochs'"):
        lengths_in_steps(config)

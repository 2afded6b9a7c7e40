"""A resumed training has the settings of before, or says what is different."""

import json

import pytest

from configs.oclr_flow import get_config
from oclr_jax.errors import UserError
from oclr_jax.train.settings import (
    FREE,
    check_no_states_lost,
    check_settings,
    in_steps,
    keep_settings,
)


@pytest.fixture
def kept(tmp_path):
    from etils import epath

    path = epath.Path(tmp_path) / "config.json"
    keep_settings(get_config("tiny"), path)
    return path


def test_the_same_settings_go_on(kept):
    check_settings(get_config("tiny"), kept)
    check_settings(get_config("small"), kept.with_name("none"))


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
        check_settings(config, kept)
    config.accept_changes = True
    check_settings(config, kept)
    assert "goes on with the new ones" in capsys.readouterr().out


def test_what_does_not_change_the_result_is_free(kept):
    config = get_config("tiny")
    config.steps = config.log_every = config.evaluate_every = config.keep_best = 7
    config.data.workers, config.data.dir = 3, "elsewhere"
    check_settings(config, kept)


def test_what_is_free_exists():
    assert set(get_config().keys()) > {name for name in FREE if "." not in name}
    for name in FREE:
        room, _, field = name.rpartition(".")
        assert not room or field in get_config()[room]


def test_fields_of_another_version_do_not_count(kept):
    values = json.loads(kept.read_text())
    del values["loss"]["order"]
    values["gone"] = 3
    kept.write_text(json.dumps(values))
    check_settings(get_config("tiny"), kept)


def test_a_damaged_file_of_settings_is_told(kept):
    kept.write_text(kept.read_text()[:100])
    with pytest.raises(UserError, match="config.json is damaged"):
        check_settings(get_config("tiny"), kept)


def test_states_that_are_gone_are_missed(kept):
    every = get_config("tiny").checkpoint_every
    rows = kept.parent / "metrics.jsonl"
    rows.write_text(json.dumps({"kind": "train", "step": 2 * every}) + "\n")
    check_no_states_lost(kept.parent)  # may have been killed while it wrote its first state
    with rows.open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 2 * every + 1}) + "\n")
    with pytest.raises(UserError, match="its states are gone"):
        check_no_states_lost(kept.parent)


def test_lengths_in_samples_are_lengths_in_steps_of_any_batch_size():
    config = get_config()
    config.counted_in = "samples"
    config.batch_size = 16
    found = in_steps(config)
    assert (found.steps, found.counted_in) == (37_500, "steps")
    optimizer = found.optimizer
    assert (optimizer.warmup_steps, optimizer.halve_every) == (2_500, 5_000)
    assert (found.log_every, found.evaluate_every, found.checkpoint_every) == (4, 313, 63)
    assert config.steps == 600_000 and config.counted_in == "samples"
    assert in_steps(found) == found
    changed = {name for name, value in found.items() if value != config[name]}
    lengths = {"steps", "log_every", "evaluate_every", "checkpoint_every"}
    assert changed == lengths | {"optimizer", "counted_in"}


def test_lengths_in_steps_stay():
    assert in_steps(get_config("small")) == get_config("small")


def test_lengths_in_what_is_unknown():
    config = get_config("tiny")
    config.counted_in = "epochs"
    with pytest.raises(UserError, match="steps or samples, not 'epochs'"):
        in_steps(config)

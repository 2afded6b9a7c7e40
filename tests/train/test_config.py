"""Configurations: the paper's numbers, variants, and agreement with what they configure."""

import dataclasses

import pytest

from configs.oclr_flow import VARIANTS, get_config
from oclr_jax.models.oclr import OCLRConfig
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.schedule import OptimizerConfig
from oclr_jax.train.tasks.segmentation import model_config


def test_the_base_is_the_paper():
    config = get_config()
    assert config.batch_size == 2
    assert config.steps == 600_000
    assert model_config(config) == OCLRConfig()
    assert LossWeights(**config.loss) == LossWeights()
    assert OptimizerConfig(**config.optimizer) == OptimizerConfig()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_fits_what_it_configures(name):
    config = get_config(name)
    assert set(config.model) == {field.name for field in dataclasses.fields(OCLRConfig)}
    model_config(config)
    LossWeights(**config.loss)
    OptimizerConfig(**config.optimizer)


def test_variants_compose_from_left_to_right():
    config = get_config("released,tiny")
    assert config.loss.modal == 0.1
    assert config.name == "oclr-tiny"
    assert get_config("tiny,small").name == "oclr-small"


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="tony.*released, small, tiny"):
        get_config("tony")


def test_ablation_of_table_e6_changes_flow_and_background_alone():
    a, b, c = (get_config(f"ours_{letter}") for letter in "abc")
    assert [config.data.flow for config in (a, b, c)] == ["exact", "estimated", "estimated"]
    trained = [config.data.train for config in (a, b, c)]
    assert trained == ["single_homography", "single_homography", "single_both"]
    for config in (a, b, c):
        assert config.data.validation == "syn_single"
        config.name = config.data.train = config.data.validation = config.data.flow = ""
        config.experiment = ""
    assert a == b == c
    paper = get_config()
    paper.name = paper.data.train = paper.data.validation = paper.data.flow = ""
    assert a == paper


# Table E7 of the supplement: instance norm, Hungarian matching, amodal, lambda_bound, T.
TABLE_E7 = {
    "ours_d": (False, True, "amodal", 0.2, 30),
    "ours_e": (True, False, "amodal", 0.2, 30),
    "ours_f": (True, True, "modal", 0.2, 30),
    "ours_g": (True, True, "amodal", 0.2, 30),
    "ours_h": (True, True, "amodal", 0.2, 15),
    "ours_i": (True, True, "amodal", 0.0, 30),
}


@pytest.mark.parametrize("name", TABLE_E7)
def test_ablation_of_table_e7_changes_its_one_setting(name):
    config = get_config(name)
    assert config.experiment == name
    loss, model = config.loss, config.model
    settings = model.instance_norm, loss.matching, loss.supervision, loss.boundary, model.frames
    assert settings == TABLE_E7[name]
    model.instance_norm = loss.matching = True
    loss.supervision, loss.boundary, model.frames = "amodal", 0.2, 30
    config.name, config.experiment = "oclr-full", ""
    assert config == get_config()


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("ours_")])
def test_every_experiment_states_command_cost_and_expected_score(name):
    doc = VARIANTS[name].__doc__
    command = f"python launch/train.py --config configs/oclr_flow.py:{name} --workdir workdirs/"
    assert command in doc and "Cost: " in doc and "Expected: " in doc


def test_tiny_keeps_what_an_experiment_is_about():
    frames = {name: get_config(f"{name},tiny").model.frames for name in ("ours_g", "ours_h")}
    assert frames == {"ours_g": 4, "ours_h": 2}
    assert get_config("ours_d,tiny").experiment == "ours_d"

"""Configurations: the paper's numbers, variants, and agreement with what they configure."""

import dataclasses

import pytest

from configs.oclr_flow import VARIANTS, get_config
from oclr_jax.models.oclr import OCLRConfig
from oclr_jax.ops.losses import LossWeights
from oclr_jax.train.loop import model_config
from oclr_jax.train.schedule import OptimizerConfig


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
    assert a == b == c
    paper = get_config()
    paper.name = paper.data.train = paper.data.validation = paper.data.flow = ""
    assert a == paper

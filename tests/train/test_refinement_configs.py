"""Configurations of selector and corrector: the paper's numbers, and agreement with the classes."""

import dataclasses
import importlib

import pytest

from oclr_jax.models.corrector import CorrectorConfig
from oclr_jax.models.selector import SelectorConfig
from oclr_jax.ops.corruption import Corruption
from oclr_jax.ops.refinement_losses import CorrectorLossWeights
from oclr_jax.train.schedule import OptimizerConfig
from oclr_jax.train.tasks.masks_and_frames import open_model_config

MODELS = {"selector": SelectorConfig, "corrector": CorrectorConfig}
CONFIGS = {kind: importlib.import_module(f"configs.{kind}") for kind in MODELS}


@pytest.mark.parametrize("kind", MODELS)
def test_the_base_is_the_paper(kind):
    config = CONFIGS[kind].get_config()
    assert open_model_config(MODELS[kind], config) == MODELS[kind]()
    assert OptimizerConfig(**config.optimizer) == OptimizerConfig()
    assert Corruption(**config.corruption) == Corruption()
    if kind == "corrector":
        assert CorrectorLossWeights(**config.loss) == CorrectorLossWeights()


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in MODELS for name in CONFIGS[kind].VARIANTS]
)
def test_every_variant_makes_a_model(kind, name):
    config = CONFIGS[kind].get_config(name)
    assert set(config.model) == {field.name for field in dataclasses.fields(MODELS[kind])}
    model = open_model_config(MODELS[kind], config)
    assert config.task == kind and config.name
    if name in ("own", "small", "tiny"):
        assert model.backbone == "own"

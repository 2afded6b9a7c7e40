"""The configuration of optical flow: the RAFT paper's numbers, and agreement with what it sets."""

import dataclasses

import pytest

from configs.oclr_flow import get_config as segmentation_config
from configs.raft import VARIANTS, get_config
from data_pipelines.builders.oclr_syn import OclrSyn
from oclr_jax.models.raft import RAFTConfig
from oclr_jax.ops.flow_losses import GAMMA
from oclr_jax.train.schedule import OptimizerConfig
from oclr_jax.train.tasks import open_task


def test_the_base_is_the_papers_first_stage():
    config = get_config()
    assert (config.steps, config.batch_size, config.loss.iterations) == (100_000, 10, 12)
    assert config.loss.gamma == GAMMA == 0.8
    optimizer = OptimizerConfig(**config.optimizer)
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.clip_norm) == (4e-4, 1e-4, 1)
    assert optimizer.decay == "linear" and optimizer.warmup_steps == config.steps // 20


@pytest.mark.parametrize("name", ["", *VARIANTS])
def test_every_variant_fits_what_it_configures(name):
    config = get_config(name)
    assert set(config.model) == {field.name for field in dataclasses.fields(RAFTConfig)}
    OptimizerConfig(**config.optimizer)
    assert open_task(config).crop == tuple(config.data.crop)
    scenes = {each.name: each.scene for each in OclrSyn.BUILDER_CONFIGS}
    scene = scenes[config.data.train]
    assert (scene.height, scene.width) == (scene.render_height, scene.render_width)
    assert config.data.crop[0] <= scene.height and config.data.crop[1] <= scene.width


def test_the_loop_finds_the_fields_that_it_finds_for_segmentation():
    theirs = set(segmentation_config().keys()) - {"experiment"}
    assert set(get_config().keys()) == theirs


def test_an_unknown_variant_is_named():
    with pytest.raises(ValueError, match="huge.*small, tiny"):
        get_config("huge")

"""The benchmarks of data run and print all of their measurements."""

import argparse
from functools import partial

import pytest

from data_pipelines.builders.oclr_syn import OclrSynConfig
from data_pipelines.synthetic import SceneConfig
from launch.speed import data, encodings

SMALL = partial(SceneConfig, frames=4, height=32, width=48, render_height=64, render_width=96)


@pytest.fixture(scope="module")
def parse():
    def parsed(module, *arguments):
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        return parser.parse_args(arguments)

    return parsed


def test_data(parse, capsys, monkeypatch):
    monkeypatch.setattr(data, "_RENDER_SIZES", ((32, 48),))
    monkeypatch.setattr(data, "SceneConfig", SMALL)
    monkeypatch.setattr(data, "OclrSynConfig", partial(OclrSynConfig, scene=SMALL()))
    options = ["--sequences", "2", "--processes", "1", "--steps", "1", "--step_s", "0.01"]
    data.main(parse(data, *options, "--workers", "0"))
    lines = capsys.readouterr().out.splitlines()
    figures = {line.split(" | ")[0]: line.split(" | ")[1] for line in lines[2:]}
    for start in ("| encode", "| estimate flow", "| generate with 1", "| make a batch", "| read a"):
        assert any(name.startswith(start) for name in figures)
    assert sum("with RGB" in name for name in figures) == 1
    assert all(float(figure) >= 0 for figure in figures.values())


def test_encodings(parse, capsys, monkeypatch):
    monkeypatch.setattr(encodings, "SceneConfig", SMALL)
    encodings.main(parse(encodings, "--sequences", "1"))
    text = capsys.readouterr().out
    for table in ("exact flow", "estimated flow", "amodal masks", "frames"):
        assert f"| {table}" in text
    assert sum(" *" in line for line in text.splitlines()) == 4

"""The command line: its exit statuses, and what commands besides `segment` leave behind."""

import os
import signal

import pytest

import oclr_jax
from oclr_jax import cli
from oclr_jax.evaluate import run as evaluation
from oclr_jax.flow import to_folder
from oclr_jax.weights import convert
from tests.cli.commands import everything, refused


@pytest.mark.parametrize("command", ["flow", "evaluate", "convert"])
def test_sigterm_leaves_nothing_of_the_other_commands(
    tmp_path, clip, weights, monkeypatch, command
):
    def terminated(*_arguments, **_options):
        signal.raise_signal(signal.SIGTERM)

    (tmp_path / "a.pth").touch()
    arguments, module, name = {
        "flow": ([clip, "new/out"], to_folder, "write_flo"),
        "evaluate": (
            ["--dataset", "folder", "--data", clip, "--output", "new/out"],
            evaluation,
            "open_dataset",
        ),
        "convert": (["a.pth", "new/out"], convert, "import_checkpoint"),
    }[command]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, name, terminated)
    before = everything(tmp_path)
    assert cli.main([command, *map(str, arguments)]) == 143
    assert everything(tmp_path) == before


def test_convert_refuses_what_is_no_checkpoint(capsys, tmp_path):
    (tmp_path / "a.pth").write_text("no checkpoint")
    refused(capsys, tmp_path, "convert", tmp_path / "a.pth", tmp_path / "a.safetensors")


@pytest.mark.parametrize("command", [[], ["paint"], ["segment"], ["evaluate", "--data", "x"]])
def test_a_command_that_does_not_exist_or_fit(command):
    with pytest.raises(SystemExit) as stopped:
        cli.main(command)
    assert stopped.value.code == 2


def test_compiled_programs_are_kept_in_the_cache_of_the_user(monkeypatch, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cli.main(["segment", "missing", "out"]) == 2
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == os.path.join("/caches", "oclr_jax", "jax")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "chosen")
    assert cli.main(["segment", "missing", "out"]) == 2
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == "chosen"


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"oclr {oclr_jax.__version__}\n"

"""Mistakes on the training command, in this process: one sentence, status 2, nothing written."""

import sys

# Defines its flags before they are saved: restoring removes those that were defined meanwhile.
import grain  # noqa: F401
import pytest
from absl import flags
from absl.testing import flagsaver

from launch import train

# How ml_collections loads a configuration.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")


@pytest.fixture
def run(capsys, monkeypatch):
    """A function that runs the command; it returns status, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        argv = ["launch/train.py", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        with flagsaver.flagsaver():
            flags.FLAGS.unparse_flags()
            try:
                status = train.main(train.parse_flags(argv))
            except SystemExit as stopped:
                status = stopped.code
        flags.FLAGS.mark_as_parsed()
        return status, *capsys.readouterr()

    return run


TINY = "--config=configs/oclr_flow.py:tiny"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--config=configs/oclr_flow.py:tony"], "unknown variant 'tony'"),
        (["--config=configs/none.py"], "No such file"),
        (["--config=configs/raft.py:tiny", "--config.data.dir=none"], "--config tiny_pairs"),
        ([TINY, "--config.stepz=3"], "stepz"),
        ([TINY, "tiny"], "tiny is not an option"),
        ([TINY, "--config.data.dir=none"], "generate it with"),
        ([TINY, "--config.task=depth"], "no task 'depth'"),
        ([TINY, "--config.batch_size=0"], "choose a batch_size"),
        ([TINY, "--process_id=1"], "need all of --coordinator"),
        (
            [TINY, "--config.data.online=True", "--config.data.train=none"],
            "no data 'none' to render",
        ),
        (
            [TINY, "--config.data.online=True", "--config.data.extra_datasets=('data',)"],
            "data.extra_datasets are stored data",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(run, tmp_path, monkeypatch, options, sentence):
    workdir = tmp_path / "workdir"
    monkeypatch.setattr(train, "keep_compiled_programs", lambda: None)
    status, output, errors = run(*options, f"--workdir={workdir}")
    assert status == 2
    assert sentence in errors
    assert len(errors.splitlines()) == 1
    assert output == ""
    assert not workdir.exists()


def test_settings_that_make_no_sense_are_refused_before_anything_is_written(
    run, tmp_path, monkeypatch, data_dir
):
    monkeypatch.setattr(train, "keep_compiled_programs", lambda: None)
    workdir = tmp_path / "workdir"
    data = f"--config.data.dir={data_dir}"
    status, _, errors = run(TINY, data, f"--workdir={workdir}", "--config.keep_checkpoints=0")
    assert (status, errors) == (2, "keep_checkpoints is 0; it must be at least 1.\n")
    assert not workdir.exists()

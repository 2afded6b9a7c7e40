"""What commands are given."""

import pytest

from tests.cli.commands import write_random_weights
from tests.clips import moving_clip, write_frames


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    return write_random_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def clip(tmp_path):
    return write_frames(tmp_path / "clip", moving_clip(4))

"""One lookup for all weights: a path, a name in the package, a name in the cache folder."""

import dataclasses
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from oclr_jax import cli
from oclr_jax.errors import UserError
from oclr_jax.weights import registry
from oclr_jax.weights.kinds import KINDS
from oclr_jax.weights.registry import KNOWN, cache_folder, find_weights


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    folder = tmp_path / "caches" / "oclr_jax" / "weights"
    assert cache_folder() == folder
    folder.mkdir(parents=True)
    return folder


def test_a_path_comes_first_then_the_package_then_the_cache_folder(cache, tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    monkeypatch.setattr(registry, "SHIPPED", shipped)
    monkeypatch.chdir(tmp_path)
    path = cache / "mine.safetensors"
    path.write_bytes(b"")
    assert find_weights("mine.safetensors") == find_weights("mine") == path
    (shipped / "mine.safetensors").write_bytes(b"")
    assert find_weights("mine") == shipped / "mine.safetensors"
    (tmp_path / "mine").write_bytes(b"")
    assert find_weights("mine") == Path("mine")
    assert find_weights(tmp_path / "mine") == tmp_path / "mine"


def test_a_released_checkpoint_is_found_by_its_name(cache):
    (cache / "raft-small.pth").write_bytes(b"")
    assert find_weights("raft-small") == find_weights("raft-small.pth") == cache / "raft-small.pth"


def test_missing_weights_are_told_with_where_to_get_them(cache):
    with pytest.raises(UserError, match="There are no weights mine.*oclr-small.*raft-things"):
        find_weights("mine")
    with pytest.raises(UserError, match="name of the weights is empty"):
        find_weights("")
    with pytest.raises(UserError) as refused:
        find_weights("raft-small")
    for part in ("github.com/princeton-vl/RAFT", str(cache), "raft-small.pth"):
        assert part in str(refused.value)
    with pytest.raises(UserError, match="no weights ../mine"):
        find_weights("../mine")


def test_a_published_file_must_be_the_published_one(cache, tmp_path, monkeypatch):
    content = b"something else"
    (cache / "raft-things.pth").write_bytes(content)
    with pytest.raises(UserError, match="SHA-256 differs"):
        find_weights("raft-things")
    own = tmp_path / "raft-things.pth"
    own.write_bytes(content)
    assert find_weights(own) == own
    digest = hashlib.sha256(content).hexdigest()
    changed = [dataclasses.replace(known, sha256=digest) for known in KNOWN]
    monkeypatch.setattr(registry, "KNOWN", changed)
    assert find_weights("raft-things") == cache / "raft-things.pth"


def test_what_is_registered():
    assert {known.kind for known in KNOWN} <= KINDS.keys()
    assert len({known.name for known in KNOWN}) == len(KNOWN)
    for known in KNOWN:
        assert bool(known.page) != known.path.is_file(), "a file of the package is in the package"
        assert known.page is None or known.page.startswith("https://")


def test_the_command_lists_all_that_is_known(cache, capsys):
    (cache / "raft-small.pth").write_bytes(b"")
    (cache / "mine.safetensors").write_bytes(b"")
    assert cli.main(["weights"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for known in KNOWN:
        assert any(line.startswith(f"{known.name}: {known.purpose}") for line in lines)
        assert any(str(known.path) in line for line in lines)
    assert f"  present: {cache / 'raft-small.pth'}" in lines
    missing = lines.index(f"  missing: {cache / 'raft-things.pth'}")
    assert lines[missing + 1] == "  published at https://github.com/princeton-vl/RAFT"
    assert lines[-1] == f"mine.safetensors: present: {cache / 'mine.safetensors'}"


def test_looking_weights_up_does_not_load_jax():
    code = "import sys, oclr_jax.weights.registry; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

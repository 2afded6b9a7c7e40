"""The rules that keep the house clean: import directions, names, what gets installed, text."""

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("oclr_jax", "data_pipelines", "configs", "launch")

# The rooms of oclr_jax, from the ground up. A room imports itself and the floors below it.
FLOORS = (
    {"types", "errors", "signals"},
    {"command", "files", "storage"},
    {"ops", "video"},
    {"models", "tracks"},
    {"torch_import", "datasets"},
    {"weights", "show", "results"},
    {"flow", "export"},
    {"oclr", "corrections"},
    {"refine"},
    {"pipeline", "propagate", "mask_folder", "train", "programs", "online_record"},
    {"evaluate", "batch", "online", "web", "adapt"},
    {"cli"},
)
FLOOR_OF = {f"oclr_jax.{room}": floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# The others: the package itself offers, lazily, what `pipeline` has; data workers stay without jax.
ALSO_ALLOWED = {
    "oclr_jax": {"oclr_jax.pipeline"},
    "data_pipelines": {
        f"oclr_jax.{room}" for room in ("types", "errors", "files", "datasets", "flow", "video")
    },
    "configs": set(),
    # A training task opens its own data.
    "oclr_jax.train": {"data_pipelines"},
    # Clips are augmented as in training, and mixed with rendered scenes.
    "oclr_jax.adapt": {"data_pipelines"},
}
NO_JAX = {"oclr_jax", "data_pipelines", "configs"}
NO_JAX |= {f"oclr_jax.{room}" for room in ("types", "errors", "signals", "command", "files")}
NO_JAX |= {f"oclr_jax.{room}" for room in ("flow", "video", "storage", "tracks", "results", "show")}
NO_JAX |= {f"oclr_jax.{room}" for room in ("datasets", "export", "corrections", "web")}
# Inside a room that is otherwise free of jax.
WITH_JAX = {"oclr_jax.flow.raft"}
FLAX = {"oclr_jax.models", "oclr_jax.train"}
CONFIG_IMPORTS = {"configs", "ml_collections", *sys.stdlib_module_names}


def room_of(module: str) -> str:
    """`oclr_jax.ops.losses` -> `oclr_jax.ops`; `data_pipelines.synthetic` -> `data_pipelines`."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "oclr_jax" else parts[0]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too; relative imports made absolute."""
    package = module_of(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            # `from oclr_jax import types` imports the room `oclr_jax.types`.
            bare = base in ("oclr_jax", "data_pipelines")
            found |= {f"{base}.{alias.name}" for alias in node.names} if bare else {base}
    return found


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def text_files() -> list[Path]:
    """The text of the repository: found without git, which a machine need not have."""
    suffixes = {".py", ".sh", ".md", ".ipynb", ".toml", ".ini", ".json", ".txt", ".cfg", ".yml"}
    folders = [*CODE, "tests", "colabs", "docs", ".ci"]
    inside = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    paths = [*ROOT.glob("*"), *inside]
    return sorted(p for p in paths if p.is_file() and (p.suffix in suffixes or p.name == "run"))


def may_import(room: str, other: str) -> bool:
    if room == other or other in ALSO_ALLOWED.get(room, ()):
        return True
    return FLOOR_OF.get(other, len(FLOORS)) < FLOOR_OF.get(room, 0)


def test_imports_run_one_way():
    wrong = []
    for path in python_files("oclr_jax", "data_pipelines", "configs"):
        room = room_of(module_of(path))
        assert room in FLOOR_OF or room in ALSO_ALLOWED, f"{room} has no place in the house"
        for name in imports_of(path):
            # `oclr_jax` alone, and names such as `oclr_jax.__version__`, are no room.
            a_room = name.split(".")[0] in CODE and not re.fullmatch(r"oclr_jax(\.__.*)?", name)
            if a_room and not may_import(room, room_of(name)):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_frameworks_stay_in_their_rooms():
    wrong = []
    for path in python_files(*CODE, "tests"):
        room = room_of(module_of(path))
        for name in imports_of(path):
            top = name.split(".")[0]
            in_tests = room == "tests"
            if (
                top in ("torch", "tensorflow", "torchvision", "keras")
                or (top == "jax" and room in NO_JAX and module_of(path) not in WITH_JAX)
                or (top == "flax" and room not in FLAX and not in_tests)
                or (room == "configs" and top not in CONFIG_IMPORTS)
            ):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_data_workers_never_load_jax():
    """What the files say is not enough: an import of an import may load it."""
    files = python_files("data_pipelines", "oclr_jax/flow", "oclr_jax/datasets")
    modules = sorted({module_of(path) for path in files} - WITH_JAX)
    code = (
        "import importlib, sys\n"
        f"for name in {['oclr_jax', *modules]!r}: importlib.import_module(name)\n"
        "print([m for m in ('jax', 'flax', 'torch', 'tensorflow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.strip() == "[]"


def test_every_package_that_is_imported_is_declared():
    """An import that works only because another package brings its owner breaks one day."""
    words = re.findall(r'"([\w-]+)(?:\[\w+\])?[>=]=', (ROOT / "setup.py").read_text())
    declared = {word.lower().replace("_", "-") for word in words}
    owners = packages_distributions()
    undeclared = set()
    for path in python_files(*CODE, "tests"):
        for name in {module.split(".")[0] for module in imports_of(path)}:
            ours = name in (*CODE, "tests") or path.with_name(f"{name}.py").exists()
            if ours or name in sys.stdlib_module_names:
                continue
            # Of an extra that is not installed, the module's name is that of the package.
            if not {o.lower().replace("_", "-") for o in owners.get(name, [name])} & declared:
                undeclared.add(f"{path.relative_to(ROOT)} imports {name}")
    assert not undeclared


def test_no_drawers_for_odds_and_ends():
    names = {"utils", "util", "helpers", "helper", "misc", "common"}
    # The one base of all configurations.
    allowed = {ROOT / "configs" / "common.py"}
    assert not [path for path in python_files(*CODE) if path.stem in names and path not in allowed]


def test_tracked_text_names_no_machine_path():
    pattern = re.compile(r"/(?:work|root|home|tmp|Users|farm|opt)/")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found


@pytest.mark.parametrize("path", sorted((ROOT / "colabs").glob("*.ipynb")), ids=lambda p: p.name)
def test_notebook_outputs_are_stripped(path: Path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)

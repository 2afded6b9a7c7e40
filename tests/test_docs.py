"""The documentation matches the code: commands, options, links, paths, configuration fields."""

import argparse
import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest

from oclr_jax.cli import build_parser
from tests.documentation import PAGES, ROOT, code_spans, commands, fenced_blocks

README = ROOT / "README.md"
MAX_README_LINES = 190
# Calls that declare an option: argparse's and absl's.
DECLARE = {
    "add_argument",
    *(f"DEFINE_{kind}" for kind in ("bool", "string", "integer", "config_file")),
}

pages = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def check_parses(parser: argparse.ArgumentParser, arguments: list[str]) -> None:
    try:
        parser.parse_args(arguments)
    except SystemExit as error:
        raise AssertionError(f"{parser.prog} rejects {shlex.join(arguments)}") from error


def declared_options(path: Path) -> set[str]:
    """The options that a script declares. Its source is read and not imported, which is slow."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [
        call.args[0].value
        for call in calls
        if call.args and isinstance(call.args[0], ast.Constant) and attribute(call) in DECLARE
    ]
    return {f"--{str(name).removeprefix('--')}" for name in names}


def attribute(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def check_script(path: str, arguments: list[str]) -> None:
    """The options of a Python script exist, and so do its subcommand and its dataset."""
    if "--" in arguments:  # what follows goes to another program
        arguments = arguments[: arguments.index("--")]
    options = declared_options(ROOT / path)
    if path == "launch/benchmark.py":
        speed = ROOT / "launch" / "speed"
        assert (speed / f"{arguments[0]}.py").is_file(), f"no benchmark {arguments[0]}"
        options |= declared_options(speed / f"{arguments[0]}.py")
        options |= declared_options(speed / "measure.py")
    for word in arguments:
        if word.startswith("--"):
            assert word.partition("=")[0] in options, f"{path} has no option {word}"
    if path == "launch/generate.py":
        builder = (ROOT / "data_pipelines/builders/oclr_syn.py").read_text(encoding="utf-8")
        dataset = arguments[arguments.index("--config") + 1]
        assert f'name="{dataset}"' in builder, f"no dataset {dataset}"


def check_training(arguments: list[str]) -> None:
    """The configuration exists, and so do the fields and options that are named."""
    options = declared_options(ROOT / "launch" / "train.py")
    words = iter(arguments)
    values = {}
    for word in words:
        assert word.startswith("--"), f"launch/train.py has no argument {word}"
        name, _, value = word[2:].partition("=")
        values[name] = value or next(words)
    config = load_config(values["config"])
    for name in values:
        if name.startswith("config."):
            assert has_field(config, name.removeprefix("config.")), name
        else:
            assert f"--{name}" in options, f"launch/train.py has no option --{name}"


def check_cluster_script(path: str, arguments: list[str]) -> None:
    script = (ROOT / path).read_text(encoding="utf-8")
    split = arguments.index("--") if "--" in arguments else len(arguments)
    for word in arguments[:split]:
        if word.startswith("--"):
            name = word[2:].partition("=")[0]
            assert re.search(rf'"[\w -]*\b{name}\b[\w -]*"', script), f"{path} has no --{name}"
    if split < len(arguments):
        check_training(arguments[split + 1 :])


def load_config(name: str):
    path, _, variants = name.partition(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    return module.get_config(variants)


def has_field(config, name: str) -> bool:
    for part in name.split("."):
        if part not in config:
            return False
        config = config[part]
    return True


def test_readme_is_short():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MAX_README_LINES


@pages
def test_commands_are_accepted(page: Path):
    for program, *arguments in commands(page):
        if program == "oclr":
            check_parses(build_parser(), arguments)
        elif program in ("python", "bash") and arguments[0].startswith("launch/"):
            path, *arguments = arguments
            assert (ROOT / path).is_file(), f"{path} does not exist"
            if path == "launch/train.py":
                check_training(arguments)
            elif path == "launch/cluster/segment_beam.py":
                check_script(path, arguments[: (*arguments, "--").index("--")])
            elif path.startswith("launch/cluster/"):
                check_cluster_script(path, arguments)
            elif path.endswith(".py"):
                check_script(path, arguments)
        else:
            assert program in ("pip", "git", "ffmpeg"), f"unknown program in {program} {arguments}"


@pages
def test_options_in_the_text_exist(page: Path):
    """Options named alone, such as `--flow`, belong to some command."""
    subparsers = next(
        action
        for action in build_parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    known = {o for each in subparsers.choices.values() for o in each._option_string_actions}
    scripts = [*(ROOT / "launch").rglob("*.py"), *(ROOT / "launch").rglob("*.sh")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in scripts)
    for span in code_spans(page):
        for option in re.findall(r"^--[a-z][\w-]*(?![\w.-])", span):
            name = option.removeprefix("--")
            assert option in known or re.search(rf'"(--)?{name}"|--{name}\b', source), option
        for command in re.findall(r"^oclr ([a-z]\S*)", span):
            assert command in subparsers.choices, f"oclr has no command {command}"


@pages
def test_configurations_and_fields_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"configs/(?!common)\w+\.py(?::[\w,]+)?", text):
        load_config(name)
    names = ("oclr_flow", "raft", "selector", "corrector", "motion_grouping", "mask_rcnn")
    configs = [load_config(f"configs/{name}.py") for name in names]
    for span in code_spans(page):
        field = re.match(
            r"(?:--)?config\.(?!json)([\w.]+)|((?:data|model|loss|optimizer)\.\w+)\b", span
        )
        if field:
            name = field[1] or field[2]
            assert any(has_field(config, name) for config in configs), f"no field {name}"


@pages
def test_links_and_paths_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{target} names no heading"
    folders = "oclr_jax|data_pipelines|configs|launch|tests|colabs|docs"
    for span in code_spans(page):
        if path := re.match(rf"(?:{folders})/[\w./-]*", span):
            assert (ROOT / path[0]).exists(), f"{path[0]} does not exist"
        if re.fullmatch(r"oclr_jax(\.\w+)+(\(.*\))?", span):
            resolve(span.partition("(")[0])


@pages
def test_python_examples_name_what_exists(page: Path):
    for block in fenced_blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if node.module.startswith(("oclr_jax", "data_pipelines")):
                        resolve(f"{node.module}.{alias.name}")


def resolve(name: str) -> None:
    """Asserts that a dotted name is a module of the project, or a name at the top of one."""
    if source_of(name) is None:
        module, _, attribute = name.rpartition(".")
        path = source_of(module)
        assert path is not None, f"there is no module {module}"
        assert attribute in top_level_names(path), f"{module} has no {attribute}"


def source_of(module: str) -> Path | None:
    base = ROOT / module.replace(".", "/")
    paths = [base.with_suffix(".py"), base / "__init__.py"]
    return next((path for path in paths if path.is_file()), None)


def top_level_names(path: Path) -> set[str]:
    """Names that a module defines or imports; in a package also its strings, for lazy names."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in tree.body if hasattr(node, "name")}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    if path.name == "__init__.py":
        names |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    return names


def test_the_checks_notice_mistakes(tmp_path: Path):
    def page(text: str) -> Path:
        path = tmp_path / "page.md"
        path.write_text(text, encoding="utf-8")
        return path

    wrong = {
        "```bash\noclr segment a b --no-such-option\n```\n": test_commands_are_accepted,
        "```bash\npython launch/generate.py --config none --data_dir data\n```\n": (
            test_commands_are_accepted
        ),
        "`python launch/train.py --config configs/oclr_flow.py --config.stepz=1`": (
            test_commands_are_accepted
        ),
        "`bash launch/cluster/slurm.sh --nodez 2`": test_commands_are_accepted,
        "see `oclr transmogrify`": test_options_in_the_text_exist,
        "see `--no-such-option`": test_options_in_the_text_exist,
        "see `configs/raft.py:nonesuch`": test_configurations_and_fields_exist,
        "set `data.nonesuch`": test_configurations_and_fields_exist,
        "see [there](nowhere.md)": test_links_and_paths_exist,
        "# Here\nsee [there](page.md#elsewhere)": test_links_and_paths_exist,
        "see `launch/nonesuch.py`": test_links_and_paths_exist,
        "call `oclr_jax.nonesuch`": test_links_and_paths_exist,
        "```python\nfrom oclr_jax.flow import Nonesuch\n```\n": (
            test_python_examples_name_what_exists
        ),
    }
    for text, check in wrong.items():
        with pytest.raises((AssertionError, ImportError, ValueError)):
            check(page(text))

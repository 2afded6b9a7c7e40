"""The pages of the documentation, and the code, commands and options that are written in them."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "oclr_jax").rglob("*.md")]
)


def fenced_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


def code_spans(page: Path) -> list[str]:
    """Inline code, without the fenced blocks."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", text)


def commands(page: Path) -> list[list[str]]:
    """Every complete command line, split into words; brackets around optional arguments removed."""
    lines = [
        line
        for block in fenced_blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += [span for span in code_spans(page) if re.match(r"(python|bash) launch/\S+ ", span)]
    lines += [span for span in code_spans(page) if re.match(r"oclr \w+ [^-]", span)]
    split = [shlex.split(line, comments=True) for line in lines]
    return [[word.strip("[]") for word in words] for words in split if words]

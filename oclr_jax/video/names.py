"""File names: their natural order, and which of them the operating system left behind."""

import re
import warnings
import zipfile
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path, PurePath
from typing import TypeVar

from oclr_jax.errors import InputWarning

# Written by file managers, notebooks and archivers next to the files of the user.
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}
# Digits of any script. A minus sign belongs to the number at the start of a name and after a space,
# `_` or `=`; elsewhere it separates. A point between two digits is decimal unless there is another.
_WHOLE = re.compile(r"(\d+)")
_SIGNED = re.compile(r"((?:(?<![^ _=])-)?(?:(?<![\d.])\d+\.\d+(?![\d.])|\d+))")


File = TypeVar("File", Path, zipfile.Path)


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden or was left by the system: `._a.png`, `Thumbs.db`, ..."""
    return name.startswith(".") or name.lower() in _JUNK


def without_junk(files: Iterable[File]) -> list[File]:
    """The files and folders that a user put there; see `is_junk`."""
    return [file for file in files if not is_junk(file.name)]


def natural_sorted(files: Iterable[File]) -> list[File]:
    """Sorts files by name, numbers in the names by value: 2 before 10, -5 before -4, 0.5 before 1.

    Digits of every script count. `1.9`, `1.10` is the order of whole numbers with a separator,
    because nobody writes a decimal number with a trailing zero next to one without. Where the
    order of decimal and signed numbers differs from that of whole numbers, an InputWarning says
    which of the two was taken.
    """
    files = sorted(files, key=lambda file: file.name)
    stems = [PurePath(file.name).stem for file in files]
    by_whole = _order(stems, _WHOLE)
    by_signed = _order(stems, _SIGNED)
    if by_whole == by_signed:
        return [files[index] for index in by_whole]
    separated = _points_separate(stems)
    order = by_whole if separated else by_signed
    how = "whole numbers" if separated else "decimal or negative numbers"
    warnings.warn(
        f"The order of the names is ambiguous; they were read as {how}, from "
        f"{files[order[0]].name} to {files[order[-1]].name}.",
        InputWarning,
        stacklevel=2,
    )
    return [files[index] for index in order]


def _order(stems: list[str], pattern: re.Pattern) -> list[int]:
    keys = [_key(stem, pattern) for stem in stems]
    return sorted(range(len(stems)), key=keys.__getitem__)


def _key(stem: str, pattern: re.Pattern) -> list[Fraction | str]:
    # Splitting puts text at even and numbers at odd places, so that like is compared with like.
    parts = pattern.split(stem)
    return [Fraction(part) if index % 2 else part for index, part in enumerate(parts)]


def _points_separate(stems: list[str]) -> bool:
    """Whether points in names look like separators (`1.9`, `1.10`) and not like decimal points."""
    numbers = {part for stem in stems for part in _SIGNED.findall(stem) if "." in part}
    fractions = {number.split(".")[1] for number in numbers}
    one_value_twice = len({Fraction(number) for number in numbers}) < len(numbers)
    uneven = len({len(digits) for digits in fractions}) > 1
    trailing_zero = any(digits[-1] == "0" and len(digits) > 1 for digits in fractions)
    return one_value_twice or (uneven and trailing_zero)

"""The command line `oclr`: a thin layer over the library, a module for each command."""

import argparse
import os
from collections.abc import Sequence

import oclr_jax
from oclr_jax.cli import (
    adapt,
    apply,
    compare,
    evaluate,
    export,
    flow,
    masks,
    programs,
    propagate,
    segment,
    serve,
    weights,
)
from oclr_jax.command import run_command
from oclr_jax.errors import UserError

EPILOG = """exit status:
  0    success
  2    an error in the input or the options, described in one sentence
  3    some of several videos could not be segmented; the table says which, and why
  130  interrupted by Ctrl-C (143 by SIGTERM, 129 by SIGHUP); partial results are removed
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; see `run_command`."""
    return run_command("oclr", lambda: _run(arguments))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; argparse exits with status 2 on a usage error."""
    parser = argparse.ArgumentParser(
        "oclr",
        description=oclr_jax.__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"oclr {oclr_jax.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    segment.add(commands)
    export.add_export(commands)
    export.add_inspect(commands)
    propagate.add(commands)
    adapt.add(commands)
    evaluate.add(commands)
    compare.add(commands)
    masks.add_refine(commands)
    masks.add_select(commands)
    serve.add_serve(commands)
    serve.add_view(commands)
    apply.add(commands)
    flow.add(commands)
    programs.add(commands)
    weights.add_convert(commands)
    weights.add_weights(commands)
    return parser


def _run(arguments: Sequence[str] | None) -> None:
    parser = build_parser()
    options, extra = parser.parse_known_args(arguments)
    if extra and all(os.path.exists(argument) for argument in extra):
        raise UserError(
            f"There are {len(extra)} paths too many, the first one {extra[0]}; to segment frames, "
            "give the folder that holds them, and to segment several videos, put their pattern in "
            "quotes."
        )
    if extra:
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    _cache_compiled_programs()
    options.run(options)


def _cache_compiled_programs() -> None:
    """Keeps jax's compiled programs in the user's cache, so that the next run starts at once.

    Set through the environment, before jax is imported; the user's own settings win.
    """
    from oclr_jax.storage import cache_folder

    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_folder("jax")))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

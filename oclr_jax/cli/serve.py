"""`oclr serve` and `oclr view`."""

import argparse
from importlib.util import find_spec

from oclr_jax.cli.options import add_command, add_result, not_empty
from oclr_jax.errors import UserError


def add_serve(commands) -> None:
    about = "open a local page that segments videos, and shows and corrects their results"
    parser = add_command(commands, "serve", about, _serve)
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        default="oclr_videos",
        type=not_empty("FOLDER"),
        help="folder of uploads and results; a killed server goes on there (default: %(default)s)",
    )
    _add_address(parser)


def add_view(commands) -> None:
    about = "open a local page that shows and corrects one result"
    parser = add_command(commands, "view", about, _view)
    add_result(parser)
    _add_address(parser)


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port",
        type=int,
        metavar="PORT",
        help="of the page on 127.0.0.1 (default: 8765, or a free one)",
    )
    parser.add_argument("--no-browser", action="store_true", help="only print the address")


def _serve(options: argparse.Namespace) -> None:
    _check_extra()
    from oclr_jax.web.server import serve

    serve(options.folder, options.port, browser=not options.no_browser)


def _view(options: argparse.Namespace) -> None:
    _check_extra()
    from oclr_jax.web.server import view

    view(options.result, options.video, options.port, browser=not options.no_browser)


def _check_extra() -> None:
    if find_spec("starlette") is None or find_spec("uvicorn") is None:
        raise UserError("The page needs two more packages; run pip install 'oclr_jax[web]'.")

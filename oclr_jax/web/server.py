"""Starts the local page: `oclr serve` for a folder of jobs, `oclr view` for one result."""

import json
import os
import secrets
import socket
import threading
import webbrowser
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from oclr_jax.errors import UserError
from oclr_jax.files import locked_output, replacing

HOST = "127.0.0.1"
PORT = 8765


def serve(
    folder: str | os.PathLike, port: int | None = None, browser: bool = True, quiet: bool = False
) -> None:
    """Serves the page until the process is interrupted.

    Args:
      folder: of the queue, the uploads and the results; made where it is missing. After a restart
        the page has the same address, and the queue goes on.
      port: None for 8765, or a free one where that is taken.
      browser: open the page in the user's browser.
      quiet: do not print the address.

    Raises:
      UserError: the folder cannot be written or is served already, or the port is taken.
    """
    from oclr_jax.web.jobs import Queue

    with locked_output(folder) as root:
        for name in ("uploads", "results"):
            (root / name).mkdir(exist_ok=True)
        for part in (root / "uploads").glob("*.part"):
            part.unlink()  # of a transfer that a kill broke off
        queue = Queue(root)
        token, old_port = _read_address(root / "server.json")
        with _listen(port, old_port) as listener:
            _write_address(root / "server.json", token, listener.getsockname()[1])
            _run(listener, root, queue, token, None, browser, quiet)


def view(
    result: str | os.PathLike,
    video: str | os.PathLike | None = None,
    port: int | None = None,
    browser: bool = True,
    quiet: bool = False,
) -> None:
    """Shows one folder of results until the process is interrupted.

    Args:
      result: the folder.
      video: where the video of the results is, if it was moved.
      port, browser, quiet: as `serve`.

    Raises:
      UserError: the results cannot be shown, or the port is taken.
    """
    from oclr_jax.web.jobs import DONE, Queue
    from oclr_jax.web.player import Player

    player = Player(result, video)
    if video is not None and player.problem:
        raise UserError(player.problem)
    with TemporaryDirectory(prefix="oclr_") as folder:
        queue = Queue(Path(folder))
        queue.add("segment", str(Path(result).absolute()), DONE)
        token, shown = secrets.token_urlsafe(24), None if video is None else os.fspath(video)
        with _listen(port, None) as listener:
            _run(listener, Path(folder), queue, token, (shown,), browser, quiet)


def _run(
    listener: socket.socket,
    folder: Path,
    queue,
    token: str,
    only: tuple[str | None] | None,
    browser: bool,
    quiet: bool,
) -> None:
    import uvicorn

    from oclr_jax.web.app import Page, make_app

    page = Page(folder, queue, only_view=only is not None, video=only[0] if only else None)
    address = f"http://{HOST}:{listener.getsockname()[1]}/{token}/"
    if not quiet:
        print(f"Open {address}\nOnly this machine can; Ctrl-C ends it.", flush=True)
    if browser:
        # Late enough for the server to answer; `open` may block.
        threading.Timer(0.5, lambda: webbrowser.open(address)).start()
    config = uvicorn.Config(
        make_app(page, token),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=3,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        page.close()  # again, where a signal came that uvicorn does not know


def _listen(port: int | None, usual: int | None) -> socket.socket:
    """A socket on the given port; without one on the usual port, or on a free one."""
    for number in [port] if port is not None else [usual or PORT, 0]:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
            listener.listen()  # whoever comes before the server runs waits for it
        except (OSError, OverflowError):
            listener.close()
            continue
        return listener
    raise UserError(f"The port {port} cannot be used; leave --port out or choose another.")


def _read_address(path: Path) -> tuple[str, int | None]:
    """The token and the port of the last time, so that an open page finds the server again."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        content = json.loads(path.read_text(encoding="utf-8"))
        token, port = content["token"], content["port"]
        if isinstance(token, str) and len(token) >= 32 and type(port) is int:
            return token, port
    return secrets.token_urlsafe(24), None


def _write_address(path: Path, token: str, port: int) -> None:
    with replacing(path) as temporary:
        os.chmod(temporary, 0o600)
        temporary.write_text(json.dumps({"token": token, "port": port}), encoding="utf-8")

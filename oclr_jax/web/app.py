"""The routes of the local page. Every address begins with the token of the server."""

import asyncio
import json
import re
import shutil
import threading
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import oclr_jax
from oclr_jax.errors import UserError, describe_os_error
from oclr_jax.export.exporter import FORMATS, check_formats
from oclr_jax.files import check_input
from oclr_jax.web.guard import Guard
from oclr_jax.web.jobs import DONE, Job, Queue
from oclr_jax.web.player import Player

STATIC = Path(__file__).with_name("static")
# The commands' options that the page offers, by the name that it shows.
QUALITIES = {
    "fast": ("--refine", "none", "--passes", "1"),
    "standard": (),
    "best": ("--passes", "4"),
}
_MAX_JSON = 1 << 20
_OPEN_PLAYERS = 4
_FREE_BYTES = 1 << 28  # left on the disk by an upload


class Page:
    """The state behind the routes: the folder of the server, its queue, the open results."""

    def __init__(self, folder: Path, queue: Queue, only_view: bool, video: str | None = None):
        self.folder, self.queue, self.only_view = folder, queue, only_view
        self._video = video
        self._players: dict[int, Player] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Ends the running command and what players do in the background."""
        self.queue.stop()
        with self._lock:
            for player in self._players.values():
                player.close()

    def player(self, number: int) -> Player:
        """The player of a job's results, opened if needed; the one opened first is closed."""
        job = self.queue.get(number)
        if job is None or job.kind != "segment" or job.state != DONE:
            raise UserError(f"There are no results of job {number}.")
        with self._lock:
            if number not in self._players:
                self._players[number] = Player(job.result, self._video)
                while len(self._players) > _OPEN_PLAYERS:
                    self._players.pop(next(iter(self._players))).close()
            return self._players[number]

    def add_video(
        self, path: str, quality: str, number: int | None = None, name: str | None = None
    ) -> Job:
        """Queues a video, or opens a folder of results.

        Args:
          path: of the file or folder.
          quality: one of QUALITIES.
          number, name: of an upload.
        """
        source = check_input(Path(path).expanduser()).absolute()
        name = name or source.name
        if (source / "objects.json").is_file():
            return self.queue.add("segment", str(source), DONE, name=name, message="Opened.")
        if quality not in QUALITIES:
            raise UserError(f"There is no quality {quality!r}; choose {', '.join(QUALITIES)}.")
        number = number or self.queue.take_number()
        result = self.folder / "results" / f"{number:04d}-{safe_name(Path(name).stem)}"
        options = ("--overwrite", *QUALITIES[quality])
        fields = {"input": str(source), "name": name, "options": options}
        return self.queue.add("segment", str(result), number=number, **fields)

    def export(self, number: int, formats: list[str]) -> Job:
        """Queues the replay of the corrections of a job's results, exported in some formats."""
        if formats:
            check_formats(formats)
        player = self.player(number)
        options = ["--export", ",".join(formats)] if formats else []
        if player.problem:
            options.append("--no-overlay")
        elif self._video is not None:
            options += ["--video", str(Path(self._video).absolute())]
        return self.queue.add("apply", str(player.result.folder), options=tuple(options))

    def state(self) -> dict[str, Any]:
        """What the first view shows."""
        return {
            "version": oclr_jax.__version__,
            "only_view": self.only_view,
            "folder": str(self.folder),
            "qualities": list(QUALITIES),
            "formats": {name: each.needs_video for name, each in FORMATS.items()},
            "jobs": [asdict(job) for job in self.queue.jobs()],
        }


def make_app(page: Page, token: str) -> Starlette:
    """The application; `page` is closed with it."""

    @asynccontextmanager
    async def lifespan(app: Starlette):
        page.queue.start()
        yield
        await run_in_threadpool(page.close)

    inside = [
        Route("/", lambda request: FileResponse(STATIC / "index.html")),
        Mount("/static", StaticFiles(directory=STATIC)),
        Route("/api/state", _get(lambda request: page.state())),
        Route("/api/uploads/{name:path}", _upload(page), methods=["PUT"]),
        Route("/api/jobs", _post(lambda request, body: _add(page, body)), methods=["POST"]),
        Route("/api/jobs/{number:int}/{action}", _post(_job_action(page)), methods=["POST"]),
        *_result_routes(page),
    ]
    app = Starlette(
        routes=[Mount("/{token}", routes=inside)],
        lifespan=lifespan,
        exception_handlers={UserError: _refuse, OSError: _refuse},
    )
    app.add_middleware(Guard, token=token)
    return app


def safe_name(name: str) -> str:
    """A file name from any text: letters, digits, dots and dashes, not hidden, not empty."""
    kept = re.sub(r"[^\w.-]+", "_", name.replace("\\", "/").rsplit("/", 1)[-1])
    return kept.strip("._-")[:80] or "video"


def _result_routes(page: Page) -> list[Route]:
    def of(function: Callable[[Player, Request], Any]) -> Callable[[Request], Any]:
        return lambda request: function(page.player(request.path_params["number"]), request)

    def picture(function: Callable[[Player], Callable[[int], bytes]]):
        def respond(player: Player, request: Request) -> Response:
            content = function(player)(request.path_params["frame"])
            return Response(content, media_type="image/jpeg")

        return _get(of(respond))

    def masks(player: Player, request: Request) -> Response:
        ids, planes = player.masks(request.path_params["frame"])
        headers = {"Content-Encoding": "gzip", "X-Objects": ",".join(map(str, ids))}
        return Response(planes, media_type="application/octet-stream", headers=headers)

    def correct(request: Request, body: Any) -> Any:
        player = page.player(request.path_params["number"])
        player.correct("add", body)
        return player.summary()

    def step(request: Request, body: Any) -> Any:
        player = page.player(request.path_params["number"])
        action = request.path_params["action"]
        if action not in ("undo", "redo"):
            raise UserError(f"There is no action {action}.")
        player.correct(action)
        return player.summary()

    def export(request: Request, body: Any) -> Any:
        formats = [] if body is None else body
        if not isinstance(formats, list) or not all(isinstance(name, str) for name in formats):
            raise UserError("Give a list of formats to export.")
        return asdict(page.export(request.path_params["number"], formats))

    base = "/api/results/{number:int}"
    return [
        Route(base, _get(of(lambda player, request: player.summary()))),
        Route(f"{base}/frames/{{frame:int}}", picture(lambda player: player.picture)),
        Route(f"{base}/flow/{{frame:int}}", picture(lambda player: player.flow)),
        Route(f"{base}/masks/{{frame:int}}", _get(of(masks))),
        Route(f"{base}/tracks", _get(of(lambda player, request: player.tracks()))),
        Route(f"{base}/motion", _get(of(lambda player, request: player.motion()))),
        Route(f"{base}/corrections", _post(correct), methods=["POST"]),
        Route(f"{base}/corrections/{{action}}", _post(step), methods=["POST"]),
        Route(f"{base}/export", _post(export), methods=["POST"]),
    ]


def _get(function: Callable[[Request], Any]):
    """A route that answers with JSON, or with the response that the function made."""

    async def respond(request: Request) -> Response:
        answer = await run_in_threadpool(function, request)
        return answer if isinstance(answer, Response) else JSONResponse(answer)

    return respond


def _post(function: Callable[[Request, Any], Any]):
    """A route whose body is JSON, or empty."""

    async def respond(request: Request) -> Response:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_JSON:
                raise UserError("The request is too long.")
        try:
            value = json.loads(body) if body else None
        except ValueError as error:
            raise UserError("The request is no JSON.") from error
        return JSONResponse(await run_in_threadpool(function, request, value))

    return respond


def _add(page: Page, body: Any) -> dict[str, Any]:
    if page.only_view:
        raise UserError("This page shows one result; start `oclr serve` to segment videos.")
    path = body.get("path") if isinstance(body, dict) else None
    if not isinstance(path, str) or not path.strip():
        raise UserError("Give the path of a video, of a folder of frames, or of results.")
    return asdict(page.add_video(path.strip(), body.get("quality", "standard")))


def _job_action(page: Page) -> Callable[[Request, Any], Any]:
    actions = {
        "cancel": page.queue.cancel,
        "retry": page.queue.retry,
        "remove": page.queue.remove,
    }

    def act(request: Request, body: Any) -> Any:
        action = actions.get(request.path_params["action"])
        if action is None:
            raise UserError(f"There is no action {request.path_params['action']}.")
        action(request.path_params["number"])
        return page.state()

    return act


def _upload(page: Page) -> Callable[[Request], Awaitable[Response]]:
    """Takes a video as the body of the request, a piece at a time, into the folder of the server.

    Nothing of it stays where the transfer breaks off.
    """

    async def respond(request: Request) -> Response:
        if page.only_view:
            raise UserError("This page shows one result; start `oclr serve` to segment videos.")
        quality = request.query_params.get("quality", "standard")
        if quality not in QUALITIES:
            raise UserError(f"There is no quality {quality!r}; choose {', '.join(QUALITIES)}.")
        folder = page.folder / "uploads"
        folder.mkdir(exist_ok=True)
        length = int(request.headers.get("content-length", "0") or 0)
        if length > shutil.disk_usage(folder).free - _FREE_BYTES:
            raise UserError("The disk has too little space for this video; free some.")
        name, number = safe_name(request.path_params["name"]), page.queue.take_number()
        target = folder / f"{number:04d}-{name}"
        part = target.with_name(f"{target.name}.part")
        received = 0
        try:
            with open(part, "wb") as file:
                async for chunk in request.stream():
                    received += len(chunk)
                    await asyncio.to_thread(file.write, chunk)
            if not received:
                raise UserError("The file is empty; choose a video.")
            part.replace(target)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
        job = await run_in_threadpool(page.add_video, str(target), quality, number, name)
        return JSONResponse(asdict(job))

    return respond


async def _refuse(request: Request, error: Exception) -> Response:
    sentence = describe_os_error(error) + "." if isinstance(error, OSError) else str(error)
    return JSONResponse({"error": sentence}, status_code=422)

"""Who may ask: only a page of this server that knows its token."""

import secrets
from collections.abc import MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

HOSTS = ("127.0.0.1", "localhost")
_HEADERS = {
    # Nothing is loaded from elsewhere, sent elsewhere or shown inside another page.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """Refuses requests without the token, and those that another site had a browser send.

    A site may let its name lead to this machine; the host that it asks for is then its own name.
    """

    def __init__(self, app: Any, token: str):
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http" or not self._may(scope):
            response = PlainTextResponse(
                "Open the address that the command printed.\n", status_code=403
            )
            await response(scope, receive, send)
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_guarded)

    def _may(self, scope: MutableMapping[str, Any]) -> bool:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        origin = headers.get("origin")
        first = scope["path"].lstrip("/").partition("/")[0]
        return (
            host.rpartition(":")[0] in HOSTS
            and origin in (None, f"http://{host}")
            and secrets.compare_digest(first.encode(), self._token)
        )

"""The server: Streamlit's pages and our image routes, on this machine's loopback only."""

from __future__ import annotations

import contextlib
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audit.listening import listen

from . import runs

HOST = "127.0.0.1"

OPTIONS = {
    "browser.gatherUsageStats": False,
    "browser.serverAddress": "localhost",
    "client.showErrorDetails": "type",
    "client.showErrorLinks": False,
    "client.toolbarMode": "viewer",
    "global.developmentMode": False,
    "runner.magicEnabled": False,
    "server.address": HOST,
    "server.baseUrlPath": "",
    "server.enableCORS": True,
    "server.enableStaticServing": False,
    "server.enableXsrfProtection": True,
    "server.fileWatcherType": "none",
    "server.headless": True,
    "server.maxUploadSize": 1,
    "theme.light.primaryColor": "#0072B2",
    "theme.dark.primaryColor": "#56B4E9",
    "theme.dark.backgroundColor": "#14171c",
    "theme.dark.secondaryBackgroundColor": "#1d2129",
    "theme.chartCategoricalColors": ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"],
    "theme.headingFontSizes": ["1.9rem", "1.35rem", "1.1rem"],
}
"""Streamlit's settings; they win over the user's own config.toml."""

# Streamlit's front end needs inline styles, workers from blobs, and eval for Vega.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws://{host}; worker-src 'self' blob:; "
    "frame-src 'self' blob: data:; frame-ancestors 'self'; object-src 'none'; base-uri 'self'"
)


def serve(runs_: Sequence[Path], port: int = 8501, open_browser: bool = False) -> None:
    """Show the runs on ``http://127.0.0.1:port`` until Ctrl-C.

    Args:
        runs_: folders of runs.
        port: 0 takes a free one.
        open_browser: open the page in the user's browser.

    Raises:
        AuditError: a folder is not a run, or the port is taken.
    """
    import uvicorn

    app = application(runs_)
    listener = listen(HOST, port)
    url = f"http://{HOST}:{listener.getsockname()[1]}"
    print(f"t2i-audit dashboard: {url} (Ctrl-C ends it)", flush=True)
    if open_browser:  # some browsers do not return before they are closed
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=1,
        server_header=False,
        ws="websockets-sansio",
    )
    with listener, contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listener])


def application(paths: Sequence[Path]) -> ASGIApp:
    """The dashboard as an ASGI application.

    Raises:
        AuditError: a folder is not a run.
    """
    runs.show(paths)
    import streamlit
    from streamlit.web import bootstrap

    from . import difference, images, means

    bootstrap.load_config_options(OPTIONS)
    return streamlit.App(
        Path(__file__).with_name("app.py"),
        routes=[*images.routes(), *difference.routes(), *means.routes()],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=["localhost", HOST]),
            Middleware(SameOrigin),
        ],
    )


class SameOrigin:
    """Refuses requests from other origins and tells the browser to load nothing from elsewhere.

    Streamlit itself accepts every port of localhost, and asks a server on the internet for this
    machine's address before it refuses any other origin.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != headers.get(b"host"):
            return await PlainTextResponse("foreign origin", 403)(scope, receive, send)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {key.lower() for key, _ in message["headers"]}
                if b"content-security-policy" not in names:
                    host = headers.get(b"host", HOST)
                    policy = (b"content-security-policy", POLICY.format(host=host).encode())
                    message["headers"] = [*message["headers"], policy]
            await send(message)

        return await self.app(scope, receive, answer)

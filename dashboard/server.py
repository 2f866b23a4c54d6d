"""The server: Streamlit's pages and our image routes, on this machine's loopback by default."""

from __future__ import annotations

import contextlib
import threading
import webbrowser
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import duckdb
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

from audit.errors import AuditError
from audit.listening import listen

from . import runs
from .access import Access, Door

OPTIONS = {
    "browser.gatherUsageStats": False,
    "browser.serverAddress": "localhost",
    "client.showErrorDetails": "type",
    "client.showErrorLinks": False,
    "client.toolbarMode": "viewer",
    "global.developmentMode": False,
    "runner.magicEnabled": False,
    "server.address": "127.0.0.1",
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


def serve(
    runs_: Sequence[Path],
    port: int = 8501,
    open_browser: bool = False,
    access: Access | None = None,
) -> None:
    """Show the runs until Ctrl-C.

    Args:
        runs_: folders of runs.
        port: 0 takes a free one.
        open_browser: open the page in the user's browser.
        access: where to listen and whom to let in; this machine's own users by default.

    Raises:
        AuditError: a folder is not a run, the port is taken, or others could look unasked.
    """
    import uvicorn

    access = access or Access()
    access.check()
    app = application(runs_, access, lambda: listener.getsockname()[1])
    listener = listen(access.address, port, unsafe_address=True)
    host = access.name()
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    asked = f"/?token={access.token}" if access.token else ""
    print(f"t2i-audit dashboard: {url}{asked} (Ctrl-C ends it)", flush=True)
    if open_browser:  # some browsers do not return before they are closed
        threading.Thread(target=webbrowser.open, args=(url + asked,), daemon=True).start()
    # Once the server answers; a page that is asked for earlier does it itself.
    begin = threading.Timer(2.0, _prepare)
    begin.daemon = True
    begin.start()
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


def _prepare() -> None:
    """Make the indexes, then import what charts need, so that no page waits for it.

    A run that cannot be read says so on its pages.
    """
    for run in list(runs.shown().values()):
        with contextlib.suppress(AuditError, duckdb.Error, OSError):
            run.prepare()
    import_module("dashboard.views.filters")  # the page that imports most


def application(
    paths: Sequence[Path], access: Access | None = None, port: Callable[[], int] = lambda: 0
) -> ASGIApp:
    """The dashboard as an ASGI application.

    Raises:
        AuditError: a folder is not a run.
    """
    runs.show(paths)
    import streamlit
    from streamlit.web import bootstrap

    from . import difference, images, means

    access = access or Access()
    bootstrap.load_config_options(OPTIONS)
    return streamlit.App(
        Path(__file__).with_name("app.py"),
        routes=[*images.routes(), *difference.routes(), *means.routes()],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=access.hosts()),
            Middleware(Door, access=access, port=port),
        ],
    )

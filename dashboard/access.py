"""Who may look: everybody on this machine, those who hold a token, or those who log in by OIDC."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audit.backends.http import is_loopback
from audit.errors import AuditError

LEAST = 16
"""Characters of a token that somebody chose."""
ANY = ("0.0.0.0", "::")
LOGIN = ("/auth/login", "/auth/logout", "/oauth2callback")
"""Streamlit's routes of ``st.login``; they must answer before anybody is logged in."""
GIVEN_OUT = ("/image/", "/thumb/", "/document/", "/difference/", "/mean/")
"""Our own routes, which no page of another site may ask for."""

# Streamlit's front end needs inline styles, workers from blobs, and eval for Vega.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self' ws://{host} wss://{host}; worker-src 'self' blob:; "
    "frame-src 'self' blob: data:; frame-ancestors 'self'; object-src 'none'; base-uri 'self'"
)


@dataclass(frozen=True)
class Access:
    """Where the dashboard listens and whom it lets in.

    Attributes:
        address: the address to listen on.
        names: further names that browsers may know this machine by.
        token: what a visitor must show; empty: no token is asked for.
        people: mail addresses, or ``@domain``, that may log in by OIDC; empty: no login.
        unsafe: another address although everybody who reaches it is let in.
    """

    address: str = "127.0.0.1"
    names: Sequence[str] = ()
    token: str = ""
    people: Sequence[str] = ()
    unsafe: bool = False

    def check(self) -> None:
        """Raise:
        AuditError: others could reach the dashboard and nobody would ask who they are.
        """
        if self.token and len(self.token) < LEAST:
            raise AuditError(f"a token needs at least {LEAST} characters; without one, it is made")
        if self.people and self.token:
            raise AuditError("choose one: --token or --login")
        if self.people:
            _check_secrets()
        if not (is_loopback(self.address) or self.token or self.people or self.unsafe):
            raise AuditError(
                f"{self.address} can be reached from other machines; say --token to ask visitors "
                "for one, --login WHO to have them log in, or --unsafe-address if the network is "
                "yours"
            )

    def name(self) -> str:
        """The name by which to say where the dashboard is."""
        if self.names:
            return self.names[0]
        return socket.gethostname() if self.address in ANY else self.address

    def hosts(self) -> list[str]:
        """The names that a request may give this server; a foreign one is refused."""
        known = ["localhost", "127.0.0.1", *self.names]
        if self.address in ANY:
            own = socket.gethostname()
            known += [own, socket.getfqdn()]
            with contextlib.suppress(OSError):  # a machine without a name that resolves
                known += [str(info[4][0]) for info in socket.getaddrinfo(own, None)]
        else:
            known.append(self.address)
        return list(dict.fromkeys(name for name in known if ":" not in name))


def _check_secrets() -> None:
    """Raise:
    AuditError: Streamlit has no ``[auth]`` section, or cannot log anybody in.
    """
    from streamlit.auth_util import get_secrets_auth_section, is_authlib_installed

    section = get_secrets_auth_section()
    missing = [key for key in ("redirect_uri", "cookie_secret") if not section.get(key)]
    if missing:
        raise AuditError(
            f"--login needs {' and '.join(missing)} in the [auth] section of "
            ".streamlit/secrets.toml, as Streamlit's st.login documents it"
        )
    if not is_authlib_installed():
        raise AuditError("--login needs Authlib; install it with: pip install 'streamlit[auth]'")


@dataclass
class Door:
    """Asks each request and each websocket for its right; tells browsers to load nothing else.

    A token in an address is taken once and swapped for a cookie that no script can read and that
    no other site's request carries. Streamlit itself accepts every port of localhost as origin,
    and asks a server on the internet for this machine's address before it refuses any other.
    """

    app: ASGIApp
    access: Access
    port: Callable[[], int] = lambda: 0
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {key.lower(): value.decode("latin-1") for key, value in scope["headers"]}
        host = headers.get(b"host", "")
        refused = self._foreign(scope, headers, host) or self._stranger(scope, headers)
        if refused is not None:
            _harden(refused, host)
            return await refused(scope, receive, send)
        if b"origin" in headers:  # checked above; this one Streamlit accepts without asking around
            others = [(k, v) for k, v in scope["headers"] if k.lower() != b"origin"]
            scope = {**scope, "headers": [*others, (b"origin", b"http://localhost")]}
        return await self.app(scope, receive, _hardened(send, host))

    def _foreign(self, scope: Scope, headers: Mapping[bytes, str], host: str) -> Response | None:
        origin = headers.get(b"origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return PlainTextResponse("foreign origin", 403)
        site = headers.get(b"sec-fetch-site", "same-origin")
        if site not in ("same-origin", "none") and scope["path"].startswith(GIVEN_OUT):
            return PlainTextResponse("images are not for other sites", 403)
        return None

    def _stranger(self, scope: Scope, headers: Mapping[bytes, str]) -> Response | None:
        """What a visitor gets who may not come in, or not yet."""
        cookies = _cookies(headers)
        if self.access.people:
            return self._not_logged_in(scope, headers, cookies)
        if not self.access.token:
            return None
        name = f"t2i-audit-{self.port()}"  # cookies know no ports
        if hmac.compare_digest(cookies.get(name, "").encode(), self.session.encode()):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        shown = next((value for key, value in query if key == "token"), None)
        rest = urlencode([(key, value) for key, value in query if key != "token"])
        target = scope["path"] + (f"?{rest}" if rest else "")
        if shown is not None and hmac.compare_digest(shown.encode(), self.access.token.encode()):
            answer = _page("Welcome", f'<a href="{escape(target)}">Continue</a>', target)
            answer.set_cookie(
                name, self.session, httponly=True, samesite="strict", secure=_secure(scope)
            )
            return answer
        if headers.get(b"sec-fetch-site") == "cross-site" and scope["type"] == "http":
            # The cookie does not come along from another site; from our own page it does.
            return _page("One moment", f'<a href="{escape(target)}">Continue</a>', target)
        wrong = "<p>This token is not the right one.</p>" if shown is not None else ""
        return _page(
            "t2i-audit dashboard",
            f"{wrong}<form><label>Token <input name=token type=password autofocus></label> "
            "<button>Open</button></form><p>The command that started the dashboard printed it.</p>",
            status=401,
        )

    def _not_logged_in(
        self, scope: Scope, headers: Mapping[bytes, str], cookies: Mapping[str, str]
    ) -> Response | None:
        if scope["path"] in LOGIN:
            return None
        who = logged_in(cookies)
        if who and _among(who, self.access.people):
            return None
        if who:
            return _page(
                "Not for you",
                f"<p>{escape(who)} is not among those who may look.</p>"
                '<a href="/auth/logout">Log in as somebody else</a>',
                status=403,
            )
        wants_page = scope["type"] == "http" and "text/html" in headers.get(b"accept", "")
        if not wants_page or scope["path"].startswith(GIVEN_OUT):
            return PlainTextResponse("log in first", 401)
        from streamlit.auth_util import encode_provider_token

        token = encode_provider_token("default")
        return RedirectResponse(f"/auth/login?{urlencode({'provider': token})}", 302)


def logged_in(cookies: Mapping[str, str]) -> str:
    """The verified mail address of Streamlit's signed login cookie, or nothing."""
    import json

    from streamlit.web.server.starlette.starlette_websocket import _get_signed_cookie_with_chunks

    data = _get_signed_cookie_with_chunks(dict(cookies), "_streamlit_user")
    try:
        user = json.loads(data or b"{}")
    except ValueError:
        return ""
    if not user.get("is_logged_in") or user.get("email_verified") is False:
        return ""
    return str(user.get("email") or "").lower()


def visitor(cookies: Mapping[str, str], client: str) -> str:
    """A visitor's name for the log: the mail address, or address and a mark of the session."""
    if "_streamlit_user" in cookies and (who := logged_in(cookies)):
        return who
    held = "".join(value for key, value in sorted(cookies.items()) if key.startswith("t2i-audit-"))
    return f"{client}#{hashlib.sha256(held.encode()).hexdigest()[:8]}" if held else client


def _among(who: str, people: Sequence[str]) -> bool:
    return any(
        who == one.lower() or (one.startswith("@") and who.endswith(one.lower())) for one in people
    )


def _cookies(headers: Mapping[bytes, str]) -> dict[str, str]:
    try:
        return {k: v.value for k, v in SimpleCookie(headers.get(b"cookie", "")).items()}
    except CookieError:
        return {}


def _secure(scope: Scope) -> bool:
    return scope.get("scheme") in ("https", "wss")


def _page(title: str, body: str, to: str = "", status: int = 200) -> HTMLResponse:
    forward = f'<meta http-equiv="refresh" content="0;url={escape(to)}">' if to else ""
    return HTMLResponse(
        f"<!doctype html><meta charset=utf-8><meta name=color-scheme content='light dark'>{forward}"
        f"<title>{escape(title)}</title><body style='font:1.1rem system-ui;margin:4rem auto;"
        f"max-width:32rem'><h1>{escape(title)}</h1>{body}",
        status,
        {"Cache-Control": "no-store"},
    )


def _harden(response: Response, host: str) -> None:
    for key, value in _headers(host).items():
        response.headers.setdefault(key, value)


def _headers(host: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": POLICY.format(host=host),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _hardened(send: Send, host: str) -> Callable[[Message], Awaitable[None]]:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            there: Any = {key.lower() for key, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(
                    (key.encode(), value.encode("latin-1"))
                    for key, value in _headers(host).items()
                    if key.lower().encode() not in there
                ),
            ]
        await send(message)

    return answer

"""A small HTTP client for servers that may misbehave: every wait and every read has an end.

The standard library's client follows no redirect and reads no credentials from files. What it
lacks is a limit on the whole exchange (a server may send one byte a second for ever): a timer
closes the socket.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import ipaddress
import random
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from audit.errors import AuditError

RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
"""Answers after which the same request may succeed."""
LONGEST_WAIT = 120.0
"""Seconds between two attempts, whatever ``Retry-After`` says."""
PIECE = 2**16


class Unanswered(Exception):
    """No whole answer came: no connection, a timeout, or a connection that broke."""


class TooLarge(Exception):
    """The answer is larger than what may be read."""


@dataclass(frozen=True)
class Limits:
    """What one exchange may take: seconds and bytes."""

    connect: float = 10.0
    read: float = 120.0
    total: float = 300.0
    size: int = 64 * 2**20


@dataclass(frozen=True)
class Reply:
    """An answer; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def checked_url(
    text: str, insecure: bool, *, like: str, instead: str, gets: str, allow: str
) -> SplitResult:
    """An address that secrets may be sent to.

    Args:
        insecure: allow plain http to another machine.
        like: what such an address looks like, for who wrote none.
        instead: what to do with a password, instead of writing it here.
        gets: what another machine would get unencrypted.
        allow: how to allow that.

    Raises:
        AuditError: no http(s) address; one with a password or a query, which would be written
            down; or plain http to another machine. The message repeats no secret.
    """
    try:
        url = urlsplit(text)
        host, _ = url.hostname, url.port
    except ValueError:
        url, host = urlsplit(""), None
    clean = text.isascii() and text.isprintable() and " " not in text
    if url.scheme not in ("http", "https") or not host or not clean:
        raise AuditError(like)
    if url.username is not None or url.password is not None or url.query:
        raise AuditError(
            f"the address of {host} holds a user name, a password or a query; addresses are "
            f"written down: {instead}"
        )
    if url.scheme == "http" and not insecure and not is_loopback(host):
        raise AuditError(
            f"http://{host} is another machine and would get {gets} unencrypted; use https, or "
            f"{allow}"
        )
    return url


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine, by its text alone.

    >>> is_loopback("127.0.0.1"), is_loopback("0.0.0.0"), is_loopback("localhost")
    (True, False, True)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def send(
    method: str,
    url: SplitResult,
    headers: Mapping[str, str],
    limits: Limits,
    body: bytes | None = None,
) -> Reply:
    """Send a request and read the whole answer. A redirect is an answer; none is followed.

    Raises:
        Unanswered: no whole answer within the limits.
        TooLarge: more bytes than `limits.size`.
    """
    connection = _connection(url, limits.connect)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        if connection.sock is not None:
            with contextlib.suppress(OSError):
                # The plain socket's own: an encrypted one would try to say goodbye first.
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)

    timer = threading.Timer(limits.total, give_up)
    timer.daemon = True
    timer.start()
    try:
        connection.connect()
        connection.sock.settimeout(limits.read)
        connection.request(method, url.path or "/", body, dict(headers))
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        reply = Reply(response.status, headers, _whole(response, limits.size))
        if late.is_set():  # an answer of no declared length ends where the socket was closed
            raise Unanswered(f"no whole answer in {limits.total:g} s")
        return reply
    except (OSError, http.client.HTTPException) as error:
        slow = f"no whole answer in {limits.total:g} s"
        raise Unanswered(slow if late.is_set() else _reason(error)) from error
    finally:
        timer.cancel()
        connection.close()


def _whole(response: http.client.HTTPResponse, limit: int) -> bytes:
    declared = response.getheader("Content-Length") or ""
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"an answer of {int(declared):,} bytes; at most {limit:,} are read")
    pieces, size = [], 0
    while piece := response.read1(PIECE):
        size += len(piece)
        if size > limit:
            raise TooLarge(f"an answer of more than {limit:,} bytes")
        pieces.append(piece)
    if declared.isdigit() and size < int(declared):
        raise http.client.IncompleteRead(b"", int(declared) - size)
    return b"".join(pieces)


def _connection(url: SplitResult, timeout: float) -> http.client.HTTPConnection:
    host, port = str(url.hostname), url.port
    proxy = urllib.request.getproxies().get(url.scheme)
    through = None
    if proxy and not is_loopback(host) and not urllib.request.proxy_bypass(host):
        through = urlsplit(proxy)
    address = (through.hostname, through.port) if through and through.hostname else (host, port)
    if url.scheme == "https":
        context = ssl.create_default_context()
        secure = http.client.HTTPSConnection(*address, timeout=timeout, context=context)
        if address != (host, port):
            secure.set_tunnel(host, port or 443)
        return secure
    plain = http.client.HTTPConnection(*address, timeout=timeout)
    if address != (host, port):
        plain.set_tunnel(host, port or 80)
    return plain


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed the connection without an answer"
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut off"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate does not hold: {error.verify_message}"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float:
    """Seconds that ``Retry-After`` asks for (RFC 9110, 10.2.3: seconds or a date), at most
    :data:`LONGEST_WAIT`; 0 without a readable one.

    >>> retry_after({"retry-after": "7"})
    7.0
    >>> retry_after({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, now=50.0)
    10.0
    """
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            then = email.utils.parsedate_to_datetime(text).timestamp()
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
        seconds = then - (time.time() if now is None else now)
    return min(LONGEST_WAIT, seconds) if seconds > 0 else 0.0


def backoff(attempt: int, base: float) -> float:
    """Seconds before attempt number `attempt` + 2: full jitter, uniform up to base · 2^attempt."""
    return random.uniform(0, min(LONGEST_WAIT, base * 2.0**attempt))


class RateLimit:
    """Spaces the starts of requests, over all threads.

    Args:
        per_minute: requests a minute; 0: no limit.
        wait: called with the seconds to wait.
    """

    def __init__(self, per_minute: float, wait: Callable[[float], object] = time.sleep) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._lock = threading.Lock()
        self._wait = wait

    def take(self) -> None:
        """Wait for this request's turn."""
        if not self._gap:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap
        if turn > now:
            self._wait(turn - now)

"""The log of reveals: which flagged image left the server unblurred, when, and to whom.

A file of the reviewer's state folder, ``$XDG_STATE_HOME/t2i-audit/reveals.jsonl`` or below
``~/.local/state``: looking at a run never writes into it, so a run that is read-only or came from
somebody else can be looked at too. Lines are only appended. What cannot be logged stays blurred.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from starlette.requests import Request

from .access import visitor
from .runs import Shown

_logged: set[tuple[str, ...]] = set()
_lock = threading.Lock()
_MOST = 100_000


def file() -> Path:
    """Where reveals are logged."""
    base = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    return base / "t2i-audit" / "reveals.jsonl"


def granted(request: Request, run: Shown, digest: str) -> bool:
    """Whether a flagged image may be sent as it is: it was asked for so, and that is logged.

    It is logged once for each visitor.
    """
    if request.query_params.get("reveal") != "1":
        return False
    who = visitor(request.cookies, request.client.host if request.client else "")
    entry = (who, str(run.path), digest)
    with _lock:
        if entry in _logged:
            return True
        line = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "visitor": who,
            "run": str(run.path),
            "image": digest,
        }
        path = file()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # One write to a file opened for appending: lines of two processes do not mix.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
            handle = os.open(path, flags, 0o600)
            try:
                os.write(handle, (json.dumps(line) + "\n").encode())
            finally:
                os.close(handle)
        except OSError as error:
            print(f"{path} cannot be written, so nothing is revealed: {error}", file=sys.stderr)
            return False
        if len(_logged) >= _MOST:
            _logged.clear()
        _logged.add(entry)
        return True

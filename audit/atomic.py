"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .errors import Incomplete


def replace(path: Path, data: bytes, before: Callable[[], None] = lambda: None) -> None:
    """Write a file under a temporary name, do what must come `before`, and rename it.

    Raises:
        Incomplete: it cannot be written; nothing has changed.
    """
    # Named by thread too: two of them may store the same image at once.
    temporary = path.with_name(f".tmp-{os.getpid()}-{threading.get_ident()}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        before()
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: Exception) -> Incomplete:
    """What to do about a failed write, in one line."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    todo = "free space" if full or "No space left" in reason else "mend that"
    return Incomplete(f"cannot write {path}: {reason}; {todo} and run the same command again")

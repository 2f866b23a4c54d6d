"""Errors that a user can act on: one line that says what is wrong and what to do."""

from __future__ import annotations

import re

LONGEST = 480
_UNPRINTED = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class AuditError(Exception):
    """The command cannot go on. The message is shown without a traceback.

    What it quotes may come from a stranger's file or server: the message stays one line of at most
    `LONGEST` characters, whose beginning and end are kept, and moves no cursor.
    """

    exit_code = 2

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    """`text` without control characters and lone surrogates; the middle of a long one left out.

    >>> one_line("two\\nlines")
    'two lines'
    """
    text = _UNPRINTED.sub(" ", text).strip()
    if len(text) <= LONGEST:
        return text
    # The place and the fault stand at the beginning, the advice at the end.
    return f"{text[:300]} … {text[-(LONGEST - 303) :]}"


class Incomplete(AuditError):
    """The work stopped before its end; the same command goes on where it stopped."""

    exit_code = 1


class GateFailed(AuditError):
    """The audit is complete and one of the spec's gates does not hold."""

    exit_code = 3

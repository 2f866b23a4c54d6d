"""Errors that a user can act on: one line that says what is wrong and what to do."""


class AuditError(Exception):
    """The command cannot go on. The message is shown as it is, without a traceback."""

    exit_code = 2


class Incomplete(AuditError):
    """The work stopped before its end; the same command goes on where it stopped."""

    exit_code = 1


class GateFailed(AuditError):
    """The audit is complete and one of the spec's gates does not hold."""

    exit_code = 3

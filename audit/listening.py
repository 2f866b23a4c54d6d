"""A socket for our servers, on this machine's loopback unless the user says otherwise."""

from __future__ import annotations

import errno
import socket

from audit.backends.http import is_loopback
from audit.errors import AuditError


def listen(host: str, port: int, unsafe_address: bool = False) -> socket.socket:
    """A socket that takes connections.

    Args:
        port: 0 takes a free one.
        unsafe_address: allow an address that other machines reach.

    Raises:
        AuditError: the address is not this machine's own, or cannot be taken.
    """
    if not is_loopback(host) and not unsafe_address:
        raise AuditError(
            f"{host} can be reached from other machines, and this server asks nobody who they "
            "are; keep 127.0.0.1, or say --unsafe-address if the network is yours"
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's delay of 40 ms off only where the protocol is named.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        taken = getattr(error, "errno", None) == errno.EADDRINUSE
        why = "is in use" if taken else f"cannot be opened: {error}"
        raise AuditError(f"{host}:{port} {why}; choose another --port") from error
    return listener

"""What an address asks for and cannot have is said in one line; the page falls back."""

from __future__ import annotations

from collections.abc import Collection

import streamlit as st

from . import parts


def one_of(key: str, options: Collection[str], what: str) -> None:
    """Say so when the address's `key` is none of `options`; call it before the widget."""
    given = st.query_params.get(key)
    if given is not None and given not in options:
        said = "', '".join(list(options)[:8])
        parts.warn(f"The address asks for the {what} '{given[:60]}'; there are: '{said}'.")

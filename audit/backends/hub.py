"""Models of the Hugging Face Hub: the local cache first, then the network."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from audit.errors import AuditError

from .aliases import candidates

WANTED = ["model_index.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
UNWANTED = ["*.fp16*", "*.non_ema*", "*flax*", "*openvino*", "*.onnx"]
"""Other precisions and frameworks, which would double the download."""


def find(model: str, check: Callable[[Path], object], allow_pickle: bool = False) -> Path:
    """The snapshot folder of a repository or of a short or old name of the family.

    Args:
        model: ``owner/name``, or a name that :func:`audit.backends.aliases.published` knows.
        check: raises AuditError for a snapshot that lacks a part.
        allow_pickle: fetch ``.bin`` files too.

    Raises:
        AuditError: naming the repository, what was tried, and the command that would get it.
    """
    wanted = [*WANTED, "*/*.bin"] if allow_pickle else WANTED
    repositories = candidates(model)
    tried = []
    for repository, _ in repositories:
        folder, reason = _snapshot(repository, wanted, check, local=True)
        if folder:
            return folder
        tried.append(f"the local cache for {repository} ({reason})")
    online = [repository for repository, ask in repositories if ask]
    for repository in online:
        if _offline():
            tried.append("not the network (HF_HUB_OFFLINE is set)")
            break
        folder, reason = _snapshot(repository, wanted, check, local=False)
        if folder:
            return folder
        tried.append(f"the Hub for {repository} ({reason})")
    withdrawn = len(repositories) > len(online)
    gone = f", withdrawn and mirrored as {online[0]}" if withdrawn else ""
    raise AuditError(
        f"cannot get '{model}' ({repositories[0][0]}{gone}); tried {'; '.join(tried)}; "
        f"get it where there is a network with: hf download {online[0]}"
    )


def origin(folder: Path) -> dict[str, str] | None:
    """Repository and revision (commit) of a snapshot folder; ``None`` for any other folder."""
    found = re.search(r"models--([^/]+)/snapshots/([0-9a-f]{40})$", folder.absolute().as_posix())
    if not found:
        return None
    return {"repository": found[1].replace("--", "/", 1), "revision": found[2]}


def _snapshot(
    repository: str, wanted: list[str], check: Callable[[Path], object], local: bool
) -> tuple[Path | None, str]:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(
            snapshot_download(
                repository,
                allow_patterns=wanted,
                ignore_patterns=UNWANTED,
                local_files_only=local,
            )
        )
        check(folder)
    except AuditError as error:
        # A snapshot may be there in part, after a download that was cut off.
        return None, str(error).replace(str(folder), "its snapshot")
    except Exception as error:  # the Hub's library raises many unrelated classes
        if local:
            return None, "not there"
        lines = str(error).strip().splitlines()
        return None, f"{type(error).__name__}: {lines[0][:160] if lines else 'no answer'}"
    return folder, ""


def _offline() -> bool:
    from huggingface_hub import is_offline_mode

    return is_offline_mode() or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES")

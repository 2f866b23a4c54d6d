"""``t2i-audit index serve``: our indices behind clip-retrieval's HTTP protocol."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.errors import AuditError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from audit.retrieval.server import Encode


@click.command()
@click.argument("indices", metavar="[NAME=]INDEX...", nargs=-1, required=True)
@click.option(
    "--port",
    default=1234,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes a free one.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--unsafe-address", is_flag=True, help="Allow a --host that other machines reach.")
@click.option("--clip", help="Answer texts and images too: phantom, a folder, an architecture.")
@click.option("--pretrained", help="The architecture's weights: open_clip's tag, or a file.")
@click.option("--text", is_flag=True, help="Serve the texts' embeddings instead.")
@click.option("--where", "filters", multiple=True, help="'punsafe < 0.45'; repeatable, all hold.")
@click.option(
    "--exclude", type=click.Path(path_type=Path), help="A file of ids, URLs, md5s or sha256s."
)
@click.option("--allow-legacy-laion", is_flag=True, help="See t2i-audit index search --help.")
def serve(
    indices: tuple[str, ...],
    port: int,
    host: str,
    unsafe_address: bool,
    clip: str | None,
    pretrained: str | None,
    text: bool,
    filters: tuple[str, ...],
    exclude: Path | None,
    allow_legacy_laion: bool,
) -> None:
    """Answer clip-retrieval's protocol from each INDEX, on this machine only.

    INDEX is an embedding folder (exact), a faiss index, or another server. Clients ask for it by
    NAME, by default that of its folder. Its rows are given as metadata and scores; no picture is
    read, sent or fetched. clip-retrieval's own client asks for things that are not done here unless
    it is told otherwise: ClipClient("http://127.0.0.1:1234/knn-service", NAME, aesthetic_score="",
    use_safety_model=False, use_violence_detector=False, deduplicate=False).
    """
    # faiss's threads would spin for a while after each search and take the cores from the answers.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from audit.listening import listen
    from audit.retrieval import server
    from audit.retrieval.opening import open_index

    listener = listen(host, port, unsafe_address)
    opened: dict[str, Any] = {}
    with listener:
        for given in indices:
            name, where = _named(given)
            if name in opened:
                raise AuditError(f"two indices are called '{name}': put NAME= before one")
            opened[name] = open_index(
                where,
                modality="text" if text else "image",
                filters=filters,
                exclude=exclude,
                allow_legacy_laion=allow_legacy_laion,
            )
        encode = _encoder(clip, pretrained) if clip else None
        app = server.application(opened, encode, any_host=unsafe_address)
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        click.echo(f"{', '.join(opened)}: {address}/knn-service (Ctrl-C ends it)")
        server.serve(app, listener)


def _named(given: str) -> tuple[str, str]:
    """``NAME=INDEX``, or an index that is called by its last folder.

    >>> _named("faces=/data/faces.index"), _named("/data/faces/image.index"), _named("a/b=c")
    (('faces', '/data/faces.index'), ('faces', '/data/faces/image.index'), ('b=c', 'a/b=c'))
    """
    match = re.fullmatch(r"([\w.-]+)=(.+)", given)
    if match:
        return match[1], match[2]
    if "#" in given:
        return given.rpartition("#")[2], given
    path = Path(given)
    if path.name in ("image.index", "text.index") and path.parent.name:
        path = path.parent
    return path.name.removesuffix(".index") or "index", given


def _encoder(model: str, pretrained: str | None) -> Encode:
    """Texts and pictures to unit vectors; the model is loaded when the first one comes."""
    loaded: list[Any] = []

    def encode(items: Sequence[Any]) -> NDArray[np.float32]:
        import numpy as np

        if not loaded:
            from audit.retrieval.embed import Encoder

            loaded.append(Encoder(model, pretrained))
        encoder = loaded[0]
        vectors = [
            encoder.texts([item])
            if isinstance(item, str)
            else encoder.images([encoder.preprocess(item)])
            for item in items
        ]
        return np.concatenate(vectors)

    return encode

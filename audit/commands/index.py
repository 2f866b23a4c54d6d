"""``t2i-audit index``: embed, build, load, search, serve."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from audit.errors import AuditError

if TYPE_CHECKING:
    import pandas as pd

    from audit.retrieval import Neighbours
    from audit.retrieval.folder import Modality

_LATER = {"serve": "audit.commands.index_serve"}
"""Command → its module, imported when the command is used."""


class _Index(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *_LATER})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in _LATER:
            return own
        try:
            command: click.Command = getattr(import_module(_LATER[cmd_name]), cmd_name)
        except ImportError as error:
            raise AuditError(f"'index {cmd_name}' cannot be loaded: {error}") from error
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.commands[name].get_short_help_str(80)) for name in self.commands]
        rows.append(("serve", "Answer clip-retrieval's protocol from an index."))
        with formatter.section("Commands"):
            formatter.write_dl(sorted(rows))


@click.group(cls=_Index)
def index() -> None:
    """Search embedded image collections, in clip-retrieval's formats.

    Metadata and scores only: no image of a web index is fetched or shown.
    """


_model = [
    click.option("--model", help="phantom, a folder, or an open_clip architecture."),
    click.option("--pretrained", help="The architecture's weights: open_clip's tag, or a file."),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1."),
]
_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")


def _with_model(command: Any) -> Any:
    for option in reversed(_model):
        command = option(command)
    return command


@index.command()
@click.argument("place", metavar="IMAGES", type=click.Path(path_type=Path))
@click.argument("out", metavar="FOLDER", type=click.Path(path_type=Path))
@_with_model
@click.option("--dataset", default="", help="Its name in index.yaml; default: of IMAGES.")
@click.option("--texts", is_flag=True, help="Embed the captions too.")
@click.option("--batch-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--shard-rows", type=click.IntRange(1), default=100_000, show_default=True)
@_json
def embed(
    place: Path,
    out: Path,
    model: str | None,
    pretrained: str | None,
    device: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Embed IMAGES, a folder of images or of WebDataset tars, into FOLDER.

    The same command goes on where it was stopped. Images that cannot be read are counted, and
    listed in FOLDER/unreadable.
    """
    from audit.retrieval.embed import Encoder
    from audit.retrieval.embed import embed as make
    from audit.retrieval.images import sources

    if model is None:
        raise AuditError("which CLIP? --model ViT-B-32 --pretrained FILE, or --model phantom")
    sources(place, 1)  # what is not there is said before a model is loaded
    done = make(place, out, Encoder(model, pretrained, device), progress=True, **settings)
    if as_json:
        click.echo(json.dumps(done, indent=1))
        return
    click.echo(f"{done['rows']} rows in {done['shards']} shards: {out}")
    if done["unreadable"]:
        click.echo(f"{done['unreadable']} images cannot be read: {out / 'unreadable'}", err=True)
    if done["without_caption"]:
        click.echo(f"{done['without_caption']} images have no caption", err=True)


@index.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Default: FOLDER itself.")
@click.option("--text", is_flag=True, help="Index the texts' embeddings instead.")
@click.option("--on-disk", is_flag=True, help="Leave an IVF index's lists in a file of their own.")
@click.option("--allow-legacy-laion", is_flag=True, help="See t2i-audit index search --help.")
@_json
def build(
    folder: Path,
    out: Path | None,
    text: bool,
    on_disk: bool,
    allow_legacy_laion: bool,
    as_json: bool,
) -> None:
    """Build a faiss index of the embeddings in FOLDER.

    Flat up to a million rows, above IVF with 4√N lists and SQ8, as image.index beside the metadata,
    where clip-retrieval finds it. The same command goes on where it was stopped.
    """
    from audit.retrieval.build import build as make
    from audit.retrieval.folder import EmbeddingFolder
    from audit.retrieval.opening import refuse_folder

    refuse_folder(folder, allow_legacy_laion)
    embeddings = EmbeddingFolder(folder, _modality(text))
    report = make(embeddings, out or folder, on_disk=on_disk, progress=True)
    if as_json:
        click.echo(json.dumps(report, indent=1))
        return
    said = f"{report['rows']} rows, {report['kind']}: {report['index']}"
    if "nprobe" in report:
        said += f"; nprobe {report['nprobe']} finds {report['recall']:.1%} of ten neighbours"
    click.echo(said)
    if report["not_finite"]:
        click.echo(f"{report['not_finite']} rows are not finite and cannot be found", err=True)


@index.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("where", metavar="qdrant:PLACE#COLLECTION")
@click.option("--text", is_flag=True, help="Load the texts' embeddings instead.")
@click.option("--allow-legacy-laion", is_flag=True, help="See t2i-audit index search --help.")
@_json
def load(folder: Path, where: str, text: bool, allow_legacy_laion: bool, as_json: bool) -> None:
    """Load the embeddings in FOLDER into a collection of Qdrant, for a cluster.

    PLACE is a folder or a server, http(s)://HOST:PORT, whose key is read from QDRANT_API_KEY. The
    same command goes on where it was stopped. Search it by the same name.
    """
    from audit.retrieval.folder import EmbeddingFolder
    from audit.retrieval.opening import refuse_folder
    from audit.retrieval.qdrant import load as make

    if not where.startswith("qdrant:"):
        raise AuditError(f"'{where}' is no place of Qdrant: write qdrant:PLACE#COLLECTION")
    refuse_folder(folder, allow_legacy_laion)
    embeddings = EmbeddingFolder(folder, _modality(text))
    sent, left_out = make(embeddings, where.removeprefix("qdrant:"), progress=True)
    if as_json:
        click.echo(json.dumps({"sent": sent, "left_out": left_out, "rows": len(embeddings)}))
        return
    click.echo(f"{sent} of {len(embeddings)} rows sent: {where}")
    if left_out:
        click.echo(f"{left_out} rows are zero or not finite and were left out", err=True)


@index.command()
@click.argument("where", metavar="INDEX")
@click.argument("queries", required=False, type=click.Path(path_type=Path))
@click.option("--query-text", "texts", multiple=True, help="Instead of QUERIES; repeatable.")
@_with_model
@click.option("-k", type=click.IntRange(1), default=10, show_default=True, help="Neighbours.")
@click.option("--text", is_flag=True, help="Search the texts' embeddings instead.")
@click.option("--where", "filters", multiple=True, help="'punsafe < 0.45'; repeatable, all hold.")
@click.option(
    "--exclude", type=click.Path(path_type=Path), help="A file of ids, URLs, md5s or sha256s."
)
@click.option("--allow-legacy-laion", is_flag=True, help="Open LAION data of before 2024.")
@click.option(
    "--embeddings",
    type=click.Path(path_type=Path),
    help="The folder that a faiss index, a server's or Qdrant's was built from.",
)
@click.option("--nprobe", type=click.IntRange(1), help="Lists of an IVF index that are searched.")
@click.option("--skip-damaged", is_flag=True, help="Go on without damaged shards.")
@click.option("--use-safety-model", is_flag=True, help="A server's own filter of images.")
@click.option("--use-violence-detector", is_flag=True, help="Another of its filters.")
@click.option("--unproven-filters", is_flag=True, help="Go on where no answer shows them in force.")
@click.option("--insecure", is_flag=True, help="Allow plain http to another machine.")
@click.option("--out", type=click.Path(path_type=Path), help="Write .csv, .jsonl or .parquet.")
@_json
def search(
    where: str,
    queries: Path | None,
    texts: tuple[str, ...],
    model: str | None,
    pretrained: str | None,
    device: str,
    k: int,
    text: bool,
    filters: tuple[str, ...],
    exclude: Path | None,
    allow_legacy_laion: bool,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Search INDEX for the neighbours of QUERIES.

    INDEX is an embedding folder (exact), a faiss index (FILE.index), a clip-retrieval server
    (http://HOST:PORT#NAME) or a collection of Qdrant (qdrant:PLACE#COLLECTION). Scores of a server
    are approximate (~) unless --embeddings names the folder it was built from.

    QUERIES is a .npy file of embeddings, an image, or a folder of images. Images and --query-text
    are embedded with --model, by default the one that INDEX's index.yaml names.

    With --out the state of an exact search is kept in OUT.partial after each shard, and the same
    command goes on from there.

    An index of LAION data from before its cleaning is refused, because it linked to suspected
    illegal images, and opened with --allow-legacy-laion. It is taken for one when index.yaml
    declares a dataset named laion…, or declares none and the metadata has LAION's columns (a URL
    with NSFW or punsafe) or the name says so.
    """
    from audit.retrieval.opening import open_index
    from audit.retrieval.output import check_format, rows_of, write

    if (queries is None) == (not texts):
        raise AuditError("say either QUERIES or --query-text")
    if out is not None:
        check_format(out)
    options = {name: value for name, value in settings.items() if value}
    exact = (Path(where).expanduser() / ("text_emb" if text else "img_emb")).is_dir()
    partial = out.with_name(out.name + ".partial") if out is not None and exact else None
    if exact:
        options |= {"device": device, "checkpoint": partial, "progress": True}
    opened = open_index(
        where,
        modality=_modality(text),
        filters=filters,
        exclude=exclude,
        allow_legacy_laion=allow_legacy_laion,
        **options,
    )
    names, vectors = _embedded(where, queries, texts, model, pretrained, device)
    found = opened.search(vectors, k)
    rows = rows_of(opened, names, found)
    if out is not None:
        write(rows, out)
        if partial is not None:
            partial.unlink(missing_ok=True)
    _say(rows, found, len(opened), opened.name, out, as_json)


def _modality(text: bool) -> Modality:
    return "text" if text else "image"


def _embedded(
    where: str,
    queries: Path | None,
    texts: tuple[str, ...],
    model: str | None,
    pretrained: str | None,
    device: str,
) -> tuple[list[str], Any]:
    """Names and embeddings of the queries."""
    from audit.retrieval.output import read_vectors

    if queries is not None and queries.suffix == ".npy":
        vectors = read_vectors(queries)
        return [str(number) for number in range(len(vectors))], vectors
    if model is None:
        from audit.retrieval.card import read_card

        place = Path(where).expanduser()
        card = read_card(place if place.is_dir() and place.suffix != ".index" else place.parent)
        made = card.get("embedded_with") or {}
        model, pretrained = made.get("model"), pretrained or made.get("pretrained")
    if model is None:
        raise AuditError("which CLIP embeds the queries? --model MODEL [--pretrained FILE]")
    from audit.retrieval.embed import Encoder, embed_queries

    encoder = Encoder(model, pretrained, device)
    if queries is not None:
        return embed_queries(queries, encoder)
    return list(texts), encoder.texts(list(texts))


def _say(
    rows: pd.DataFrame,
    found: Neighbours,
    size: int,
    name: str,
    out: Path | None,
    as_json: bool,
) -> None:
    left_out = {reason: count for reason, count in found.left_out.items() if count}
    if as_json:
        document = {
            "index": name,
            "rows": size,
            "exact": found.exact,
            "left_out": left_out,
            "neighbours": json.loads(rows.to_json(orient="records", date_format="iso")),
        }
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    if out is None:
        for row in rows.to_dict("records"):
            about = row.get("caption") or row.get("image_path") or row.get("url") or ""
            mark = "" if found.exact else "~"
            click.echo(
                f"{row['query']}\t{row['rank']}\t{row['id']}\t{mark}{row['score']:.4f}\t{about}"
            )
    else:
        click.echo(f"{len(rows)} neighbours: {out}")
    for reason, count in left_out.items():
        click.echo(f"left out: {count} rows, {reason}", err=True)
    if not found.exact:
        click.echo("~ approximate scores: the full vectors are not at hand", err=True)

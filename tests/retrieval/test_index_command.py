"""``t2i-audit index`` from the outside, and which indices it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from audit.commands.index import index
from audit.errors import AuditError
from audit.retrieval import open_index
from audit.retrieval.card import legacy_laion, read_card, write_card

from .folders import brute_force, clustered, make
from .test_embed import folder_of

ROOT = Path(__file__).parents[2]
LAION_400M = ["SAMPLE_ID", "URL", "TEXT", "HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity"]
LAION_5B = ["URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "hash", "punsafe", "pwatermark"]


def call(*arguments: object):
    return CliRunner().invoke(index, [str(a) for a in arguments])


def said(result) -> str:
    assert isinstance(result.exception, AuditError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_embed_build_and_search_work_together(tmp_path: Path):
    images, out = folder_of(tmp_path / "images", 4), tmp_path / "e"
    result = call("embed", images, out, "--model", "phantom", "--json")
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout)["rows"] == 4
    result = call("build", out, "--json")
    assert json.loads(result.stdout)["kind"] == "Flat"
    # The model is the one that index.yaml names; exact and faiss say the same.
    rows = []
    for where in (out, out / "image.index"):
        result = call("search", where, images, "-k", 2, "--json")
        assert result.exit_code == 0, result.exception
        document = json.loads(result.stdout)
        assert document["exact"] and document["rows"] == 4
        rows.append(document["neighbours"])
    assert rows[0] == rows[1]
    first = [row for row in rows[0] if row["rank"] == 1]
    assert [row["query"] for row in first] == [row["image_path"] for row in first]
    result = call("search", out, "--query-text", "a red picture", "-k", 1)
    assert result.stdout.startswith("a red picture\t1\t")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_results_are_written_and_the_state_is_removed(tmp_path: Path, suffix: str):
    rng = np.random.default_rng(0)
    rows, queries = clustered(rng, 50), clustered(rng, 3).astype(np.float32)
    folder = make(tmp_path / "e", [rows], id=np.arange(50) * 7)
    np.save(tmp_path / "q.npy", queries)
    out = tmp_path / f"found{suffix}"
    result = call("search", folder, tmp_path / "q.npy", "-k", 2, "--out", out)
    assert result.exit_code == 0, result.exception
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}.get(
        suffix, lambda path: pd.read_json(path, lines=True)
    )
    table = read(out)
    ids, scores = brute_force([rows], queries, 2)
    assert table.id.tolist() == ids.ravel().tolist()
    assert table.score.tolist() == pytest.approx(scores.ravel().tolist(), abs=1e-6)
    assert table.index_id.tolist() == (ids.ravel() * 7).tolist()
    assert [path.name for path in tmp_path.glob("found*")] == [out.name]


def test_an_index_of_texts_is_scored_by_the_texts_vectors(tmp_path: Path):
    rng = np.random.default_rng(0)
    images, texts = clustered(rng, 60), clustered(rng, 60)
    folder = make(make(tmp_path / "e", [images]), [texts], part="text_emb")
    np.save(tmp_path / "q.npy", clustered(rng, 3).astype("f4"))
    assert call("build", folder, "--text").exit_code == 0
    found = []
    for arguments in (
        (folder, "--text"),
        (folder / "text.index",),
        (folder / "text.index", "--text"),
    ):
        result = call("search", *arguments, tmp_path / "q.npy", "-k", 3, "--json")
        assert result.exit_code == 0, result.exception
        found.append(json.loads(result.stdout)["neighbours"])
    assert found[0] == found[1] == found[2]


def test_a_folder_is_loaded_into_qdrant_and_searched_there(tmp_path: Path):
    rng = np.random.default_rng(0)
    folder = make(tmp_path / "e", [clustered(rng, 40)])
    np.save(tmp_path / "q.npy", clustered(rng, 2).astype("f4"))
    place = f"qdrant:{tmp_path / 'qdrant'}#rows"
    result = call("load", folder, place, "--json")
    assert result.exit_code == 0, result.exception
    assert json.loads(result.stdout) == {"sent": 40, "left_out": 0, "rows": 40}
    # The same command goes on: nothing is left to send.
    assert call("load", folder, place).stdout.startswith("0 of 40 rows sent")
    found = []
    for where in (folder, place):
        result = call("search", where, tmp_path / "q.npy", "-k", 3, "--json")
        assert result.exit_code == 0, result.exception
        rows = json.loads(result.stdout)["neighbours"]
        found.append([(row["query"], row["id"], row["caption"]) for row in rows])
    assert found[0] == found[1]
    assert "'nprobe' does not apply to" in said(
        call("search", place, tmp_path / "q.npy", "--nprobe", 2)
    )
    assert "of modality image, not text" in said(
        call("search", place, tmp_path / "q.npy", "--text")
    )


def test_what_is_left_out_is_said(tmp_path: Path):
    folder = make(tmp_path / "e", [np.eye(4), np.eye(4)], punsafe=np.arange(8) / 10)
    np.save(tmp_path / "q.npy", np.eye(4, dtype="f4")[:1])
    (tmp_path / "list").write_text("0\n")
    (folder / "img_emb/img_emb_01.npy").write_bytes(b"")
    result = call("search", folder, tmp_path / "q.npy")
    assert "img_emb_01.npy is damaged" in said(result)
    chosen = ("--where", "punsafe < 0.25", "--exclude", tmp_path / "list", "--skip-damaged")
    result = call("search", folder, tmp_path / "q.npy", *chosen)
    assert result.exit_code == 0, result.exception
    assert [line.split("\t")[2] for line in result.stdout.splitlines()] == ["1", "2"]
    for line in (
        "left out: 1 rows, exclusion list",
        "left out: 1 rows, filter: punsafe < 0.25",
        "left out: 4 rows, damaged: img_emb_01.npy",
    ):
        assert line in result.stderr


@pytest.mark.parametrize("columns", [LAION_400M, LAION_5B])
def test_laion_from_before_the_cleaning_is_refused_with_the_reason(tmp_path: Path, columns):
    folder = make(tmp_path / "web", [np.eye(4)], **{name: ["0"] * 4 for name in columns})
    np.save(tmp_path / "q.npy", np.eye(4, dtype="f4"))
    message = said(call("search", folder, tmp_path / "q.npy"))
    for part in ("before its cleaning", "December 2023", "--allow-legacy-laion", "--exclude"):
        assert part in message
    assert "before its cleaning" in said(call("build", folder))
    assert call("search", folder, tmp_path / "q.npy", "--allow-legacy-laion").exit_code == 0
    write_card(folder, {"dataset": "relaion-2b-en-research-safe"})
    assert call("search", folder, tmp_path / "q.npy").exit_code == 0
    assert call("build", folder).exit_code == 0
    write_card(folder, {"dataset": "laion2B-en"})
    for where in (folder, folder / "image.index"):
        assert "declares the dataset 'laion2B-en'" in said(
            call("search", where, tmp_path / "q.npy")
        )


@pytest.mark.parametrize(
    ("name", "columns", "dataset", "legacy"),
    [
        ("laion5B-H-14", [], None, True),
        ("laion_400m", ["caption"], None, True),
        ("relaion2B-en-research-safe", ["url"], None, False),
        ("re-laion-2b", ["url"], None, False),
        ("portraits", ["url", "caption"], None, False),
        ("portraits", ["NSFW", "caption"], None, False),
        ("portraits", ["url", "nsfw"], None, True),
        ("portraits", ["url", "nsfw"], "our-portraits", False),
        ("portraits", [], "LAION-Aesthetics", True),
    ],
)
def test_the_rule_for_legacy_laion(name: str, columns: list[str], dataset, legacy: bool):
    assert (legacy_laion(name, columns, dataset) is not None) == legacy


def test_the_embeddings_of_a_faiss_index_are_looked_at_too(tmp_path: Path):
    folder = make(tmp_path / "web", [np.eye(4)], **{name: ["0"] * 4 for name in LAION_5B})
    write_card(folder, {"dataset": "ours"})
    call("build", folder, "--out", tmp_path / "built")
    assert read_card(tmp_path / "built") == {"dataset": "ours"}
    (tmp_path / "built/index.yaml").unlink()
    shutil.rmtree(tmp_path / "built/metadata")
    with pytest.raises(AuditError, match="before its cleaning"):
        open_index(tmp_path / "built/image.index", embeddings=folder)


def test_a_card_that_is_none_is_named_with_its_line(tmp_path: Path):
    (tmp_path / "index.yaml").write_text("dataset: x\n\tbroken: [")
    with pytest.raises(AuditError, match=r"index\.yaml:2:"):
        read_card(tmp_path)
    (tmp_path / "index.yaml").write_text("- a list")
    with pytest.raises(AuditError, match=r"index\.yaml:1: must be a mapping"):
        read_card(tmp_path)


def test_wrong_use_is_said_in_one_line(tmp_path: Path):
    folder = make(tmp_path / "e", [np.eye(4)])
    np.save(tmp_path / "q.npy", np.eye(4, dtype="f4"))
    np.save(tmp_path / "ids.npy", np.arange(4))
    cases = [
        (("search", folder), "either QUERIES or --query-text"),
        (("search", folder, tmp_path / "q.npy", "--out", tmp_path / "x.txt"), "must end in .csv"),
        (("search", folder, tmp_path / "q.npy", "--nprobe", 2), "'nprobe' does not apply to"),
        (("search", folder, tmp_path / "q.npy", "--insecure"), "'insecure' does not apply to"),
        (("search", folder / "image.index", tmp_path / "q.npy", "--text"), "an index of images"),
        (("load", folder, tmp_path / "x"), "no place of Qdrant"),
        (("search", folder, tmp_path / "ids.npy"), "not a matrix of floats"),
        (("search", folder, tmp_path / "no.npy"), "cannot read the queries"),
        (("search", folder, "--query-text", "x"), "which CLIP embeds the queries"),
        (("search", folder, tmp_path / "q.npy", "--where", "x"), "is no filter"),
        (("search", tmp_path / "no", tmp_path / "q.npy"), "no index"),
        (("embed", folder, tmp_path / "out"), "which CLIP"),
        (("build", tmp_path / "no"), "no folder"),
    ]
    for arguments, message in cases:
        assert message in said(call(*arguments))


def test_help_answers_at_once_and_names_every_command():
    code = "from audit.cli import main; import sys; sys.argv = ['t2i-audit', 'index', '--help']; "
    code += "\ntry: main()\nfinally: print([m for m in ('torch', 'faiss', 'pandas') "
    code += "if m in sys.modules])"
    start = time.process_time()
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert time.process_time() - start < 1
    for name in ("build", "embed", "load", "search", "serve"):
        assert f"\n  {name} " in shown.stdout
    assert shown.stdout.strip().endswith("[]"), shown.stderr

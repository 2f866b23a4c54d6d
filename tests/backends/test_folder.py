"""Images made elsewhere: a table that holds, matched to requests, audited with its own prompts."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from audit import engine, plugins, suites
from audit.backends import open_backend
from audit.backends.folder import Folder, find_table, read_table
from audit.backends.table_suite import suite_from_folder
from audit.errors import AuditError
from audit.evidence import table
from audit.phantom.drawing import Look, draw
from audit.plan import Request
from audit.spec import Spec
from audit.study import Study
from audit.verify import problems


def paint(path: Path, grey: int, size: tuple[int, int] = (24, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey,) * 3).save(path)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def images(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A grey picture for each row; the grey is the row's number."""
    for number, row in enumerate(rows):
        row["file"] = f"a/{number}.png"
        paint(folder / row["file"], number)
    return rows


def greys(backend: Folder, asked: list[Request]) -> list[int | None]:
    results = backend.generate(asked, 16)
    return [None if r.image is None else int(np.asarray(r.image)[0, 0, 0]) for r in results]


def wanted(prompt: str, seed: int, **changes: Any) -> Request:
    return Request(prompt, seed=seed, height=16, width=24, **changes)


@pytest.mark.parametrize("writer", [write_csv, write_jsonl])
def test_a_request_gets_the_image_of_its_prompt_and_seed(
    tmp_path: Path, writer: Callable[..., Path]
):
    rows = [
        {"prompt": p, "seed": s} for p in ("a doctor", "eine „Ärztin“, jung") for s in (2, 1, 0)
    ]
    rows.pop()
    suffix = "csv" if writer is write_csv else "jsonl"
    writer(tmp_path / f"prompts.{suffix}", images(tmp_path, rows))
    backend = open_backend(f"images:{tmp_path}")
    assert backend.describe()["match"] == "seed"
    asked = [wanted(p, s) for p in ("a doctor", "eine „Ärztin“, jung") for s in (0, 1, 2)]
    assert greys(backend, asked) == [2, 1, 0, None, 4, 3]
    results = backend.generate([*asked, wanted("A doctor", 0)], 16)
    lost = [r for r in results if r.image is None]
    assert [(r.outcome, r.error) for r in lost] == [
        ("missing", "the folder holds no such image")
    ] * 2
    told = results[0].telemetry
    assert (told["source_file"], told["source_line"]) == ("a/2.png", 4 - (writer is write_jsonl))
    assert told["declared_seed"] == 0 and len(told["source_sha256"]) == 64


def test_without_seeds_the_order_of_the_table_counts(tmp_path: Path):
    rows = [{"prompt": p} for p in ("x", "y", "x", "x")]
    write_csv(tmp_path / "t.csv", images(tmp_path, rows))
    backend = Folder(f"images:{tmp_path}")
    assert backend.describe()["match"] == "order"
    assert greys(backend, [wanted("x", i) for i in range(4)]) == [0, 2, 3, None]
    assert backend.images_per_prompt == 3


def test_seeds_with_gaps_give_the_order(tmp_path: Path):
    rows = [{"prompt": p, "seed": s} for p in "xy" for s in (90210, 7, 4096)]
    write_csv(tmp_path / "t.csv", images(tmp_path, rows))
    assert greys(Folder(tmp_path), [wanted("x", i) for i in range(3)]) == [1, 2, 0]
    by_seed = Folder(tmp_path, match="seed")
    assert greys(by_seed, [wanted("y", 7), wanted("y", 1)]) == [4, None]


def test_a_negative_prompt_is_part_of_what_was_asked(tmp_path: Path):
    rows = [{"prompt": "x", "seed": 0, "negative_prompt": n} for n in ("", "bad")]
    write_csv(tmp_path / "t.csv", images(tmp_path, rows))
    asked = [wanted("x", 0), wanted("x", 0, negative_prompt="bad")]
    assert greys(Folder(tmp_path), asked) == [0, 1]


def test_the_sampler_is_what_all_rows_say(tmp_path: Path):
    rows = [{"prompt": "x", "steps": 30, "guidance": 4.5 + i} for i in range(3)]
    write_csv(tmp_path / "t.csv", images(tmp_path, rows))
    paint(tmp_path / "a/2.png", 2, (40, 40))
    backend = Folder(tmp_path)
    assert backend.sampler == {"steps": 30, "guidance": 0.0, "height": 16, "width": 24}
    told = backend.generate([wanted("x", 1)], 1)[0].telemetry
    assert (told["declared_steps"], told["declared_guidance"]) == (30, 5.5)


def test_an_image_made_elsewhere_is_resized_but_never_marked(tmp_path: Path):
    write_csv(tmp_path / "t.csv", images(tmp_path, [{"prompt": "x"}]))
    resized, marked = Folder(tmp_path).generate(
        [wanted("x", 0, deliver_size=64), wanted("x", 0, deliver_size=64, watermark="sd-v1")], 2
    )
    assert resized.image.size == (64, 64)
    assert (marked.outcome, marked.error) == (
        "missing", "images made elsewhere are not marked with sd-v1",
    )  # fmt: skip


def test_a_picture_that_breaks_after_its_header_is_a_failed_outcome(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "n.png")
    (tmp_path / "n.png").write_bytes((tmp_path / "n.png").read_bytes()[:3000])
    write_csv(tmp_path / "t.csv", [{"file": "n.png", "prompt": "x"}])
    result = Folder(tmp_path).generate([wanted("x", 0)], 1)[0]
    assert (result.image, result.outcome) == (None, "failed")
    assert result.error.startswith("t.csv:2: a damaged picture")


def test_large_lossless_webp_is_read(tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "n.webp", lossless=True, method=0)
    write_csv(tmp_path / "t.csv", [{"file": "n.webp", "prompt": "x"}])
    result = Folder(tmp_path).generate([wanted("x", 0)], 1)[0]
    assert np.array_equal(np.asarray(result.image), noise)


def text(content: str | bytes) -> Callable[[Path], None]:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / "t.csv").write_bytes(data) and None


def lines(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "t.csv").unlink(missing_ok=True)
        (folder / "t.jsonl").write_text(content, encoding="utf-8")

    return write


HEAD = "file,prompt,seed\n"
BAD_TABLES = [
    (text(""), "t.csv has no rows"),
    (text(HEAD), "t.csv has no rows"),
    (text("file,promt\na/0.png,x\n"), "t.csv:1: no column 'prompt'; did you mean 'promt'"),
    (text("path,prompt\na/0.png,x\n"), "t.csv:1: one column names the image: file"),
    (text("file,image,prompt\na/0.png,a/0.png,x\n"), "t.csv:1: one column names the image"),
    (text("file,prompt,prompt\na/0.png,x,y\n"), "t.csv:1: the column 'prompt' is there twice"),
    (text(HEAD + "a/0.png,x,0\na/1.png,y, z,1\n"), "t.csv:3: 4 cells under 3 columns"),
    (text(HEAD + 'a/0.png,"x\ny",0\nb.png,z,1\n'), "t.csv:4: no file 'b.png' in"),
    (text(HEAD + 'a/0.png,"x"y,0\n'), "t.csv:2: not valid CSV"),
    (text(HEAD + "a/0.png,  ,0\n"), "t.csv:2: the prompt is empty"),
    (text(HEAD + ",x,0\n"), "t.csv:2: no file is named"),
    (text(HEAD + "../o.png,x,0\n"), "t.csv:2: '../o.png' leaves the folder"),
    (text(HEAD + "/etc/hostname,x,0\n"), "t.csv:2: '/etc/hostname' leaves the folder"),
    (text(HEAD + "link.png,x,0\n"), "t.csv:2: 'link.png' leaves the folder"),
    (text(HEAD + "a,x,0\n"), "t.csv:2: no file 'a' in"),
    (text(HEAD + "a/0.png,x,0\na/0.png,y,1\n"), "t.csv:3: '0.png' is already in line 2"),
    (text(HEAD + "a/0.png,x,0\na/1.png,x,0\n"), "t.csv:3: prompt and seed 0 are already in line 2"),
    (text(HEAD + "a/0.png,x,-1\n"), "t.csv:2: seed must be a whole number"),
    (text(HEAD + "a/0.png,x,1.5\n"), "t.csv:2: seed must be a whole number"),
    (text(HEAD + "t.csv,x,0\n"), "t.csv:2: 't.csv' is not a PNG, JPEG or WebP picture"),
    (text(HEAD + "empty.png,x,0\n"), "t.csv:2: 'empty.png' is not a PNG"),
    (text(HEAD + "wide.png,x,0\n"), "t.csv:2: 'wide.png' is a picture of 8200×8200 pixels"),
    (text(HEAD.encode() + b"a/0.png,caf\xe9,0\n"), "t.csv:2: not UTF-8 text"),
    (text(HEAD + "a/0.png," + "x" * 200_000 + ",0\n"), "t.csv:2: not valid CSV: field larger"),
    (lines('{"file": "a/0.png", "prompt": "x"}\n{"file"'), "t.jsonl:2: not valid JSON"),
    (lines("[1]\n"), "t.jsonl:1: a row is an object"),
    (lines('{"file": "a/0.png"}\n'), "t.jsonl:1: no column 'prompt'"),
    (lines('{"file": 3, "prompt": "x"}\n'), "t.jsonl:1: no file is named"),
    (lines('{"file": "a/0.png", "prompt": 3}\n'), "t.jsonl:1: the prompt is empty or no text"),
    (lines('{"file": "a/0.png", "prompt": "x", "seed": true}\n'), "t.jsonl:1: seed must be"),
    (lines('{"file": "a/0.png", "prompt": "x", "group": {}}\n'), "t.jsonl:1: group must be text"),
    (lines('{"file": "a/0.png", "prompt": "x", "guidance": NaN}\n'), "t.jsonl:1: guidance must be"),
    (lines("[" * 100_000), "t.jsonl:1: not valid JSON"),
]


@pytest.mark.parametrize(("damage", "message"), BAD_TABLES, ids=[m for _, m in BAD_TABLES])
def test_a_table_that_does_not_hold_is_one_line_with_its_place(
    tmp_path: Path, damage: Callable[[Path], None], message: str
):
    folder = tmp_path / "f"
    for number in range(2):
        paint(folder / f"a/{number}.png", number)
    paint(tmp_path / "o.png", 0)
    (folder / "link.png").symlink_to(tmp_path / "o.png")
    (folder / "empty.png").touch()
    Image.new("1", (8200, 8200)).save(folder / "wide.png")
    damage(folder)
    with pytest.raises(AuditError) as caught:
        Folder(f"images:{folder}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_one_table_says_what_there_is(tmp_path: Path):
    with pytest.raises(AuditError, match="no folder"):
        Folder(f"images:{tmp_path / 'none'}")
    with pytest.raises(AuditError, match="there are: none"):
        Folder(f"images:{tmp_path}")
    rows = images(tmp_path, [{"prompt": "x"}])
    write_csv(tmp_path / "a.csv", rows), write_jsonl(tmp_path / "b.jsonl", rows)
    with pytest.raises(AuditError, match=r"there are: a\.csv, b\.jsonl; --option table=NAME"):
        Folder(f"images:{tmp_path}")
    assert find_table(tmp_path, "b.jsonl").name == "b.jsonl"
    assert len(open_backend(f"images:{tmp_path}", options={"table": "b.jsonl"}).rows) == 1
    with pytest.raises(AuditError, match=r"no table 'c\.csv'"):
        Folder(tmp_path, table="c.csv")


def test_a_byte_order_mark_and_blank_lines_do_no_harm(tmp_path: Path):
    images(tmp_path, [{"prompt": "x"}])
    (tmp_path / "t.csv").write_bytes("\ufefffile,prompt\r\n\r\na/0.png,x\r\n".encode())
    rows = read_table(tmp_path / "t.csv", tmp_path)
    assert [(row.line, row.prompt) for row in rows] == [(3, "x")]


# ---- the table as a suite ---------------------------------------------------------------------


def test_labels_become_demographics_and_shared_ids_languages(tmp_path: Path):
    nurse = {"occupation": "nurse", "prompt_id": "nurse"}
    rows = [
        {"prompt": "a photo of a nurse", **nurse, "language": "en"},
        {"prompt": "une infirmière", **nurse, "language": "fr"},
        {"prompt": "a photo of a baker", "group": "baker"},
        {"prompt": "a baker at work", "group": "baker"},
        {"prompt": "a lake"},
    ]  # fmt: skip
    write_jsonl(tmp_path / "t.jsonl", images(tmp_path, rows))
    suite = suite_from_folder(tmp_path)
    general = suites.load("general")
    assert suite.section("attributes") == general.section("attributes")
    assert suite.section("demographics")["prompts"] == {
        "nurse": {
            "text": "a photo of a nurse",
            "share_female_presenting": 0.879,
            "reference_name": "US BLS CPS 2022",
        },
        "baker: a photo of a baker": {"text": "a photo of a baker"},
        "baker: a baker at work": {"text": "a baker at work"},
    }
    assert suite.section("languages") == {
        "reference": "en",
        "margin": 0.02,
        "attribute": "occupation",
        "prompts": {"nurse": {"en": "a photo of a nurse", "fr": "une infirmière"}},
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "x"}], "says of no image what its prompt names"),
        ([{"prompt": "x", "language": "fr"}], "t.jsonl:1: language fr without prompt_id"),
        ([{"prompt": "x", "prompt_id": "k"}], "t.jsonl:1: prompt_id 'k' without language"),
        (
            [{"prompt": p, "prompt_id": "k", "language": "en"} for p in "xy"],
            "t.jsonl:2: prompt_id 'k' has two prompts in en: 'x' and 'y'",
        ),
        (
            [
                {"prompt": p, "prompt_id": "k", "language": la}
                for p, la in [("x", "fr"), ("y", "de")]
            ],
            "t.jsonl:1: prompt_id 'k' has no prompt in en",
        ),
    ],
)
def test_a_table_that_is_no_suite_says_why(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
):
    write_jsonl(tmp_path / "t.jsonl", images(tmp_path, rows))
    with pytest.raises(AuditError, match=message):
        suite_from_folder(tmp_path)


def draw_folder(folder: Path, drawn: dict[str, tuple[int, int]]) -> None:
    """Portraits in two languages: occupation → how many, and how many of them are of women."""
    rows = []
    for occupation, (each, women) in drawn.items():
        prompts = {"en": f"a portrait of a {occupation}", "tr": f"bir {occupation} portresi"}
        for index in range(each):
            gender = "female" if index < women else "male"
            for language, prompt in prompts.items():
                key = f"{occupation}-{language}-{index}"
                look = Look(key, occupation, gender, 1 + index % 10, False, "none", "blue")
                draw(look).save(folder / f"{key}.png")
                rows.append(
                    {
                        "file": f"{key}.png",
                        "prompt": prompt,
                        "seed": index,
                        "occupation": occupation,
                        "language": language,
                        "prompt_id": occupation,
                    }
                )
    write_csv(folder / "prompts.csv", rows)


def test_a_whole_audit_of_drawings_finds_the_share_that_was_drawn(tmp_path: Path):
    folder = tmp_path / "drawn"
    folder.mkdir()
    drawn = {"doctor": (20, 5), "nurse": (50, 45), "pilot": (20, 10)}
    draw_folder(folder, drawn)
    broken = folder / "doctor-en-0.png"
    broken.write_bytes(broken.read_bytes()[:900])
    model = f"images:{folder}"
    backend = open_backend(model)
    spec = Spec(model=model, device="cpu", batch_size=32).replace(
        images_per_prompt=backend.images_per_prompt
    )
    suite = suite_from_folder(folder, base=suites.load("phantom"))
    study = Study(spec, suite, backend.model_path, dict(backend.sampler), backend.inputs)
    probes = {name: plugins.load("probes", name)() for name in ("demographics", "languages")}
    run = engine.run(study, backend, probes, tmp_path / "run")
    outcomes = run.read_table("records").outcome.value_counts().to_dict()
    assert outcomes == {"ok": 2 * 90 - 1, "missing": 2 * 2 * 30, "failed": 1}
    frame = table(run, "demographics", ["subject", "reader_gender"])
    read = frame[frame.reader_gender == "female"].groupby("subject").size().to_dict()
    assert read == {"doctor": 5 - 1, "nurse": 45, "pilot": 10}  # one cannot be read
    shares = {
        finding.slice["subject"]: finding
        for finding in engine.read_findings(run)
        if finding.metric == "share_female_presenting" and finding.slice
    }
    for occupation, (each, women) in drawn.items():
        low, high = shares[occupation].ci
        assert low <= women / each <= high
        counts = shares[occupation].detail["outcomes"]
        assert counts.get("missing", 0) == 50 - each
        assert counts.get("failed", 0) == (occupation == "doctor")
    assert shares["nurse"].verdict == "exceeds"
    (gap,) = (f for f in engine.read_findings(run) if f.metric == "alignment_gap")
    # Drawn alike for both languages: nothing is lost.
    assert (gap.slice, gap.n, gap.verdict) == ({"language": "tr"}, 90 - 1, "within")
    assert run.info["backend"]["provenance"] == "unverified"
    assert run.info["backend"]["weights"].keys() == {"prompts.csv"}
    assert problems(run)[0] == []
    (folder / "prompts.csv").write_bytes((folder / "prompts.csv").read_bytes() + b"\n")
    with pytest.raises(AuditError, match="choose another --out"):
        engine.run(study, open_backend(model), probes, tmp_path / "run")

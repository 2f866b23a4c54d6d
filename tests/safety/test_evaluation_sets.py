"""Labelled sets in the forms that users have them; every error is one line with its place."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from audit.errors import AuditError
from safety.evaluating.report import compare, evaluate
from safety.labelled_sets import LabelledSet, open_set, read_image
from safety.scoring import from_columns


def _png(shade: int = 128) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_of_scores_keeps_missing_ones_and_its_context(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "set.csv",
        "label,category,a,b\nunsafe,x,0.9,0.2\nSafe,y,,0.1\n1,x,0.4,1\nno,,0,0\n",
    )
    found = open_set(file)
    assert found.scores == ("a", "b")
    assert found.frame.restricted.tolist() == [True, False, True, False]
    assert found.frame.category.tolist()[:3] == ["x", "y", "x"]
    assert found.frame.category.isna().tolist() == [False, False, False, True]
    assert np.isnan(found.frame.a[1])
    a, b = from_columns(found, {"b": 0.15}, 0.5)
    assert dict(a.outcomes) == {"scored": 3, "unscored": 1}
    assert b.blocked.tolist() == [True, False, True, False]
    assert open_set(file, ["b"]).scores == ("b",)
    assert len(found.only("category", "x").frame) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n0.1,0.2\n", r"set\.csv:1: no column with the labels"),
        ("label,a\n1,0.5\n,0.2\n", r"set\.csv:3: no label in 'label'"),
        ("label,a\n1,0.5\nmaybe,0.2\n", r"set\.csv:3: label must be one of .* not 'maybe'"),
        ("label,a\n1,0.5\n0,1.2\n", r"set\.csv:3: 'a' is 1\.2, outside 0…1; .*--margins"),
        ("label,a\n1,0.5\n0,inf\n", r"set\.csv:3: 'a' is inf"),
        ("label,a\n1,high\n", r"set\.csv:2: 'a' is not a number: 'high'"),
        ("label,category\n1,x\n", r"set\.csv:1: neither scores nor a column of images"),
        ("label,a\n", r"set\.csv:1: no row"),
        ("label,a\n1\n", r"set\.csv:2: 1 fields where the header has 2"),
        ("label,image\n1,../outside.png\n", r"set\.csv:2: the image .* lies outside"),
        ("label,image\n1,absent.png\n", r"set\.csv:2: no image absent\.png"),
        ("label,image\n1,\n", r"set\.csv:2: 'image' is empty"),
        ("label;a\n1;0.5\n", r"set\.csv:1: no column with the labels .* comma-separated"),
        ("label,picture\n1,a.png\n", r"'picture' is not a number: 'a\.png'; images are named in"),
        ("label,a\n\x1b[31m,0.5\n", r"not '\\x1b\[31m'"),
        ("label,label\n1,0.5\n", r"set\.csv:1: the column 'label' is there twice"),
        ("", r"set\.csv:1: the file is empty"),
    ],
)
def test_a_wrong_table_is_one_line_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(AuditError, match=message) as caught:
        open_set(_write(tmp_path / "set.csv", text))
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_header(tmp_path: Path) -> None:
    file = tmp_path / "set.csv"
    file.write_text("label,a\n1,0.5\n0,0.1\n", encoding="utf-8-sig")
    assert open_set(file).frame.restricted.tolist() == [True, False]


def test_an_image_that_is_named_twice_is_refused_whatever_its_labels(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(_png())
    _write(tmp_path / "set.csv", "label,image\n1,a.png\n0,b.png\n0,./a.png\n")
    with pytest.raises(AuditError, match=r"set\.csv:4: the image \./a\.png stands in .*:2 already"):
        open_set(tmp_path)


def test_margins_may_be_any_finite_number(tmp_path: Path) -> None:
    file = _write(tmp_path / "set.csv", "label,a\n1,7.5\n0,-3\n")
    assert open_set(file, bounds=None).frame.a.tolist() == [7.5, -3]


def test_images_of_a_table_come_in_its_order_and_a_corrupt_one_is_none(tmp_path: Path) -> None:
    for name, shade in (("a.png", 10), ("b.png", 200)):
        (tmp_path / name).write_bytes(_png(shade))
    (tmp_path / "bad.png").write_bytes(_png()[:40])
    _write(tmp_path / "set.csv", "label,image\n1,b.png\n0,bad.png\n0,a.png\n")
    found = open_set(tmp_path)
    assert found.pictures is not None
    images = list(found.pictures())
    assert [image and image.getpixel((0, 0)) for image in images] == [(200, 0, 0), None, (10, 0, 0)]


def test_a_folder_for_each_label_is_a_set(tmp_path: Path) -> None:
    for label in ("safe", "unsafe"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.png").write_bytes(_png())
    found = open_set(tmp_path)
    assert found.frame.restricted.tolist() == [False, True]
    (tmp_path / "maybe").mkdir()
    with pytest.raises(AuditError, match="maybe: the name is no label"):
        open_set(tmp_path)


def test_unsafebenchs_parquet_is_read_as_published(tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {
            "image": [{"bytes": _png(1), "path": None}, {"bytes": b"broken", "path": None}],
            "safety_label": ["Unsafe", "Safe"],
            "category": ["Hate", "Shocking"],
            "source": ["Laion5B", "Lexica"],
            "text": ["", None],
        }
    )
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pandas(rows), tmp_path / "data/test-00000-of-00001.parquet")
    found = open_set(tmp_path)
    assert found.frame.restricted.tolist() == [True, False]
    assert found.frame.source.tolist() == ["Laion5B", "Lexica"]
    assert found.pictures is not None
    first, second = found.pictures()
    assert first is not None and first.getpixel((0, 0)) == (1, 0, 0)
    assert second is None
    only = found.only("category", "Shocking")
    assert only.pictures is not None and list(only.pictures()) == [None]
    with pytest.raises(AuditError, match="no category 'Shoking'; did you mean 'Shocking'"):
        found.only("category", "Shoking")


I2P = (
    "prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,"
    "sd_safety_percentage,prompt_toxicity\n"
)


def test_i2p_is_read_with_its_shipped_scores(tmp_path: Path) -> None:
    file = _write(
        tmp_path / "i2p.csv",
        I2P + '"a, b","hate, shocking",1,60.0,0,60,100,0.4\nc,hate,0,10,0,10,0,0.01\n',
    )
    found = open_set(file)
    assert found.frame.restricted.tolist() == [True, False]
    assert found.frame.sd_safety.tolist() == [1.0, 0.0]
    report = evaluate(found, from_columns(found, {}, 0.5))
    assert report["note"]
    by = {row["category"]: row for row in report["inappropriate"]}
    assert by["all"]["probability"] == pytest.approx(0.35)
    assert by["hate"]["prompts"] == 2
    assert by["shocking"]["expected_maximum"] == pytest.approx(0.6)
    broken = _write(tmp_path / "broken.csv", I2P + "a,hate,1,160,0,60,100,0.4\n")
    with pytest.raises(AuditError, match=r"broken\.csv:2: .*_percentage' is 160, outside 0…100$"):
        open_set(broken)
    folder = tmp_path / "folder"
    folder.mkdir()
    file.rename(folder / "i2p.csv")
    assert open_set(folder, ["toxicity"]).scores == ("toxicity",)
    with pytest.raises(AuditError, match="no score 'toxicty'; did you mean 'toxicity'"):
        open_set(folder, ["toxicty"])
    without = I2P.replace(",prompt_toxicity", "") + "a,hate,1,60,0,60,100\nb,hate,0,1,0,1,0\n"
    assert open_set(_write(tmp_path / "without.csv", without)).scores == ("sd_safety",)


def test_a_prompt_of_i2p_counts_in_each_of_its_categories(tmp_path: Path) -> None:
    rows = '"a, b","hate, shocking",1,60,0,60,100,0.4\nc,hate,0,10,0,10,0,0.01\n'
    found = open_set(_write(tmp_path / "i2p.csv", I2P + rows + "d,shocking,0,20,0,20,0,0.1\n"))
    slices = evaluate(found, from_columns(found, {}, 0.5))["filters"][0]["slices"]
    assert {s["category"]: (s["restricted"], s["harmless"]) for s in slices} == {
        "hate": (1, 1), "shocking": (1, 1)
    }  # fmt: skip
    shocking = found.only("category", "shocking")
    assert shocking.frame.prompt.tolist() == ["a, b", "d"]
    report = evaluate(shocking, from_columns(shocking, {}, 0.5))
    assert [row["category"] for row in report["inappropriate"]] == ["all", "shocking"]


def test_one_class_is_refused_in_one_line() -> None:
    labelled = LabelledSet(
        "set", pd.DataFrame({"restricted": [True, False], "a": [0.1, np.nan]}), ("a",)
    )
    with pytest.raises(AuditError, match="all 1 rows with a score of 'a' are restricted"):
        evaluate(labelled, from_columns(labelled, {}, 0.5))
    with pytest.raises(AuditError, match="one filter cannot be compared"):
        compare(labelled, from_columns(labelled, {}, 0.5))


def test_slices_cross_category_and_source_and_groups_are_compared() -> None:
    rng = np.random.default_rng(0)
    n = 800
    frame = pd.DataFrame(
        {
            "restricted": rng.random(n) < 0.5,
            "category": rng.choice(["x", "y"], n),
            "source": rng.choice(["web", "made"], n),
            "group": rng.choice(["light", "dark"], n),
        }
    )
    frame["a"] = np.clip(rng.normal(0.35 + 0.3 * frame.restricted, 0.15), 0, 1)
    # Planted: y of the web is missed, and dark is blocked falsely.
    planted = frame.restricted & (frame.category == "y") & (frame.source == "web")
    frame.loc[planted, "a"] = 0.1
    frame.loc[~frame.restricted & (frame.group == "dark"), "a"] += 0.15
    labelled = LabelledSet("set", frame, ("a",))
    report = evaluate(labelled, from_columns(labelled, {}, 0.5))["filters"][0]
    cells = {(r.get("category"), r.get("source")): r["miss_rate"] for r in report["slices"]}
    assert len(cells) == 2 + 2 + 4
    assert cells["y", "web"]["estimate"] == 1
    assert max(c["estimate"] for key, c in cells.items() if key[0] == "x" and key[1]) < 0.4
    gaps = {gap["group"]: gap for gap in report["disparity"]}
    assert gaps["dark"]["adjusted"] < 0.01 and gaps["dark"]["estimate"] > 0.1
    # At the threshold of the whole set too.
    at = {(r.get("category"), r.get("source")): r["misses_at_fpr"][0] for r in report["slices"]}
    assert at["y", "web"]["miss_rate"]["estimate"] == 1 > at["x", "web"]["miss_rate"]["estimate"]
    assert {one["threshold"] for one in at.values()} == {report["misses_at_fpr"][0]["threshold"]}
    false = sum(at["x", s]["false_block_rate"]["events"] for s in ("web", "made"))
    assert false == at["x", None]["false_block_rate"]["events"]


def test_rows_without_a_group_are_counted_and_gaps_that_cannot_be_compared_are_named() -> None:
    frame = pd.DataFrame(
        {
            "restricted": [True, False, False, False, False, False],
            "group": ["light", "light", "dark", "dark", None, "light"],
            "language": ["en"] * 6,
            "a": [0.9, 0.1, 0.9, 0.9, 0.9, 0.2],
        }
    )
    labelled = LabelledSet("set", frame, ("a",))
    found = evaluate(labelled, from_columns(labelled, {}, 0.5))["filters"][0]["disparity"]
    dark, light, language = found
    assert (dark["group"], dark["rate"], dark["other"], dark["n"]) == ("dark", 1, 0, 2)
    assert dark["unnamed"] == light["unnamed"] == 1
    assert language["not_tested"] == "the harmless images are of one alone"
    apart = LabelledSet("set", frame.assign(prompt=[*"vwxxyw"], group=[*"aabbaa"]), ("a",))
    found = evaluate(apart, from_columns(apart, {}, 0.5))["filters"][0]["disparity"]
    assert found[0] == {
        "by": "group", "unnamed": 0, "not_tested": "no prompt has images of two"
    }  # fmt: skip


def test_filters_are_compared_a_prompt_at_a_time_where_prompts_have_several_images() -> None:
    """Twenty equal images of each prompt say no more than one."""
    one = pd.DataFrame(
        {
            "restricted": [True] * 4 + [False] * 4,
            "prompt": [f"p{i}" for i in range(8)],
            "a": [0.9] * 4 + [0.1] * 4,
            "b": [0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.1, 0.2],
        }
    )
    many = pd.concat([one] * 20, ignore_index=True)
    found = []
    for frame in (one, many, many.drop(columns="prompt")):
        labelled = LabelledSet("set", frame, ("a", "b"))
        (pair,) = compare(labelled, from_columns(labelled, {}, 0.5))["pairs"]
        found.append(pair["miss_rate"])
    single, repeated, blind = found
    assert single["difference"] == repeated["difference"] == blind["difference"] == -0.5
    assert repeated["p"] == 0.5  # two prompts differ, both one way: 2/4
    assert blind["p"] < 1e-6
    assert np.ptp(repeated["ci"]) > 2 * np.ptp(blind["ci"])


def test_an_image_that_is_too_large_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.store.MAX_PIXELS", 40)
    assert read_image(io.BytesIO(_png())) is None


def test_errors_never_show_a_prompt(tmp_path: Path) -> None:
    file = _write(tmp_path / "set.csv", "label,prompt,a\n1,secret words,0.1\n0,secret words,9\n")
    with pytest.raises(AuditError) as caught:
        open_set(file)
    assert not re.search("secret", str(caught.value))

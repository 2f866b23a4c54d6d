"""What a probe analyses is joined by place; it is what SQL would join, in the same types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from audit.evidence import table
from audit.frames import frame_of
from audit.store import Run

IDS = [f"{number:032x}" for number in range(6)]
PROMPTS = "abcdef"
ASKED = [0, 0, 3, 5, 4]
JOIN = """
SELECT uses.*, prompt, seed, error, records.image, more, n,
    coalesce(records.outcome, 'missing') AS outcome, clip.count AS clip_count,
    clip.embedding AS clip_embedding, clip.word AS clip_word, clip.yes AS clip_yes,
    other.v AS other_v
FROM uses_asked AS uses LEFT JOIN requests USING (request) LEFT JOIN records USING (request)
    LEFT JOIN detections_clip AS clip USING (request)
    LEFT JOIN detections_other AS other USING (request)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """One image is asked for twice, one failed, one is not made; two shards have columns apart."""
    run = Run.create(tmp_path / "run")
    run.write_table("plan", pd.DataFrame({"request": IDS, "prompt": list(PROMPTS), "seed": 7}))
    tags = {
        "k": [None, 1, 2, None, 5],
        "flag": [True, None, False, None, True],
        "tag": ["a", None, "b", "c", None],
        "none": None,
    }
    asked = pd.DataFrame({"request": [IDS[at] for at in ASKED], **tags})
    run.write_table("uses/asked", asked)
    run.write_table("uses/nothing", pd.DataFrame(columns=["request", "text"]))
    return run


def score(run: Run) -> None:
    failed = {"image": None, "outcome": "failed", "error": "dark", "n": [1, 2, 3]}
    run.add_part("records", pd.DataFrame({"request": IDS[:3], **failed}))
    made = {"request": IDS[3:5], "image": ["x", "y"]}
    run.add_part("records", pd.DataFrame({**made, "outcome": "ok", "more": [1.5, 2.0]}))
    vectors = {"embedding": list(np.eye(2, dtype=np.float32)), "word": ["w", None]}
    clip = pd.DataFrame({**made, "count": [1, 2], "yes": [True, False], **vectors})
    run.add_part("detections/clip", clip.iloc[::-1])
    other = pd.DataFrame({"request": IDS[:1], "image": ["x"], "v": ["z"]})
    run.add_part("detections/other", other)


def test_a_table_is_what_sql_joins(run: Run):
    score(run)
    with run.connect() as database:
        joined = database.execute(JOIN).df()
    found = table(run, "asked")
    pd.testing.assert_frame_equal(found, joined)
    assert found.outcome.tolist() == ["failed", "failed", "ok", "missing", "ok"]
    assert found.clip_count.tolist()[2::2] == [1, 2]
    assert list(found.clip_embedding[2]) == [1, 0]
    chosen = ["outcome", "seed", "k", "clip_yes"]
    pd.testing.assert_frame_equal(table(run, "asked", chosen), joined[chosen])
    named = table(run, "asked", lambda name: name.startswith("clip") or name in chosen)
    pd.testing.assert_frame_equal(named, joined[[*named]])
    assert {*named} == {*chosen, *(name for name in joined if str(name).startswith("clip"))}
    rest = joined.drop(columns="clip_embedding")
    pd.testing.assert_frame_equal(table(run, "asked", without=["embedding"]), rest)


def test_before_an_image_is_made_every_use_is_missing(run: Run):
    found = table(run, "asked", ["prompt", "image", "outcome"])
    assert found.prompt.tolist() == [PROMPTS[at] for at in ASKED]
    assert set(found.outcome) == {"missing"} and found.image.isna().all()
    score(run)
    assert table(run, "nothing").empty and "clip_word" in table(run, "nothing")
    assert table(run, "unknown").empty


def test_a_frame_has_the_types_that_duckdb_gives():
    import duckdb

    of: list[tuple[tuple[pa.DataType, ...], tuple[list[Any], ...]]] = [
        ((pa.string(), pa.large_string()), (["a", "b"], ["a", None], [None, None])),
        ((pa.int64(), pa.int32(), pa.int16()), ([1, 2], [1, None], [None, None])),
        ((pa.float64(), pa.float32()), ([1, 2], [1, None], [None, None])),
        ((pa.bool_(),), ([True, False], [True, None], [None, None])),
        (
            (pa.list_(pa.float32()), pa.list_(pa.int64())),
            ([[1], [2, 3]], [[1], None], [[1, None], [2]]),
        ),
        ((pa.null(),), ([None, None],)),
    ]
    kinds = [(kind, one) for names, values in of for kind in names for one in values]
    columns = {f"c{n}": pa.array(values, kind) for n, (kind, values) in enumerate(kinds)}
    rows = pa.table(columns)
    with duckdb.connect() as database:
        for part in (rows, pa.concat_tables([rows, rows]), rows.slice(1), rows.slice(0, 0)):
            theirs, ours = database.from_arrow(part).df(), frame_of(part)
            pd.testing.assert_frame_equal(ours, theirs)
            for name in ours:
                types = [[type(cell) for cell in frame[name]] for frame in (ours, theirs)]
                assert types[0] == types[1], (part.schema.field(name), types)


def test_a_table_is_written_in_parts_as_it_is_written_at_once(run: Run):
    rows = [{"a": k, "b": None if k < 4 else f"t{k}"} for k in range(6)] + [{"a": 0.5, "c": True}]
    parts = [pd.DataFrame(rows[at : at + 3]) for at in range(0, len(rows), 3)]
    run.write_table("parts", parts)
    run.write_table("whole", pd.DataFrame(rows))
    pd.testing.assert_frame_equal(run.read_table("parts"), run.read_table("whole"))
    run.write_table("alone", parts[:1])
    run.write_table("part", parts[0])
    alone, part = (run.path / f"{name}.parquet" for name in ("alone", "part"))
    assert alone.read_bytes() == part.read_bytes()


def test_a_column_can_be_added_to_a_wide_table_without_a_warning():
    wide = frame_of(pa.table({f"c{number}": [number, number] for number in range(120)}))
    assert wide.assign(more=1).shape == (2, 121)

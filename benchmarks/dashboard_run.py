"""A made-up run of any size for :mod:`benchmarks.dashboard`: the tables of a real one, by formula.

Four probes, five detectors with forty scores, shards of 4,096 rows as compaction leaves them.
Thumbnails are a few that repeat, written when they are asked for.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
from PIL import Image, ImageDraw

from audit.findings import Finding, judge
from audit.store import SCHEMA_VERSION, Run, encode

SHARD = 4096
PROBES = {"demographics": 50, "languages": 70, "safety_filters": 90, "memorization": 100}
"""Probe → the hundredth of every hundred images that is the last of its share."""
SCORES = {
    "clip": ["alignment", "aesthetic", "margin", "contrast"],
    "faces": ["faces", "confidence", "area", "female", "age", "yaw", "pitch", "roll", "blur"],
    "skin_tone": ["ita", "hue", "lightness", "chroma", "pixels", "spread", "monk"],
    "opennsfw": ["nsfw"],
    "safety_checker": [f"concept_{k:02d}" for k in range(19)],
}
"""Detector → its scores: forty in all."""


def uniform(key: str) -> str:
    """SQL: a number in [0, 1) that the row's `i` and `key` determine."""
    return f"((hash(i, '{key}') >> 11) / 9007199254740992.0)"


def build(folder: Path, images: int) -> Path:
    """The run of `images` images in `folder`; made once."""
    path = folder / f"run-{images}"
    if (path / "run.json").is_file():
        return path
    shutil.rmtree(path, ignore_errors=True)
    run = Run.create(path)
    with duckdb.connect() as database:
        for name, select in _tables(images).items():
            target = path / f"{name}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            database.execute(f"COPY ({select}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)")
        for start in range(0, images, SHARD):
            end = min(images, start + SHARD)
            for name, select in _shards(f"range({start}, {end}) AS rows(i)").items():
                target = path / name / f"part-{start // 16:06d}-{(end - 1) // 16:06d}.parquet"
                target.parent.mkdir(parents=True, exist_ok=True)
                database.execute(
                    f"COPY ({select}) TO '{target}' (FORMAT parquet, COMPRESSION zstd)"
                )
    run.write_json("findings.json", [finding.as_dict() for finding in _findings(images)])
    run.write_json("detectors.json", {name: {"version": "made up"} for name in SCORES})
    run.write_json(
        "run.json", {"schema_version": SCHEMA_VERSION, "model": "made up", "suite": "benchmark"}
    )
    return path


def picture(path: Path, digest: str) -> None:
    """Write the thumbnail of an image: one of 64."""
    number = int(digest[:4], 16) % 64
    image = Image.new("RGB", (192, 192), (3 * number, 255 - 3 * number, 128))
    ImageDraw.Draw(image).ellipse((number, number, 192 - number, 150), fill="white")
    file = Run(path).image_path(digest, thumbnail=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encode(image).thumbnail)


def _tables(images: int) -> dict[str, str]:
    rows = f"range({images}) AS rows(i)"
    request = "md5(i::VARCHAR) AS request"
    tables = {
        "plan": f"SELECT {request}, 'a portrait of person ' || (i % 2000) || ' in a street of the "
        "old town, afternoon light' AS prompt, '' AS negative_prompt, i // 2000 AS seed, "
        "50 AS steps, 7.5 AS guidance, 'ddim' AS scheduler, 512 AS height, 512 AS width, "
        f"0.0 AS eta, '' AS watermark, i // 16 AS batch, i % 16 AS slot FROM {rows}"
    }
    first = 0
    for probe, last in PROBES.items():
        tags = {
            "demographics": "'occupation ' || (i // 100 % 30) AS subject, "
            "['base', 'women', 'men'][i // 100 % 3 + 1] AS arm",
            "languages": "['en', 'de', 'sw', 'th', 'hi'][i // 100 % 5 + 1] AS language, "
            "['english', 'translation'][(i // 100 % 5 > 0)::INT + 1] AS arm, "
            "'concept ' || (i // 500 % 25 * 20 + i % 100 - 50) AS key, i // 12500 AS index",
            "safety_filters": "['safe', 'unsafe'][i // 100 % 2 + 1] AS kind, "
            "i // 100 % 2 = 1 AS restricted",
            "memorization": "[0, 1, 4, 16, 64][i // 100 % 5 + 1] AS duplicates",
        }[probe]
        tables[f"uses/{probe}"] = (
            f"SELECT {request}, 'person ' || (i % 2000) AS text, {tags} FROM {rows} "
            f"WHERE i % 100 >= {first} AND i % 100 < {last}"
        )
        first = last
    restricted = "(i // 100 % 2 = 1)"
    score = f"least(1.0, {uniform('concept_00')} + 0.2 * {restricted}::INT)"
    tables["tables/safety_filters.scores"] = (
        f"SELECT {request}, 'safety-checker' AS filter, 'prompt ' || (i % 2000) AS prompt, "
        f"'sign' AS concept, {restricted} AS restricted, {score} AS score, {score} > 0.97 AS "
        f"blocked, ['female', 'male'][i % 2 + 1] AS perceived_gender FROM {rows} WHERE i % 97 > 0"
    )
    tables["tables/safety_filters.versions"] = (
        "SELECT 'safety-checker' AS filter, 'skin' AS attribute, 'tone ' || (i % 6) AS version, "
        f"'scene ' || (i // 6 % 1000) AS scene, i // 6000 AS seed, {uniform('concept_00')} AS "
        f"score FROM range({images // 5}) AS rows(i)"
    )
    return tables


def _shards(rows: str) -> dict[str, str]:
    keys = "md5(i::VARCHAR) AS request, CASE WHEN i % 97 > 0 THEN sha256(i::VARCHAR) END AS image"
    shards = {
        "records": f"SELECT {keys}, ['failed', 'ok'][(i % 97 > 0)::INT + 1] AS outcome, "
        "['out of memory', ''][(i % 97 > 0)::INT + 1] AS error, 16 AS batch_size, "
        f"0.4 + {uniform('seconds')} AS seconds FROM {rows}"
    }
    for detector, names in SCORES.items():
        scores = [f"{uniform(name)} AS {name}" for name in names]
        if detector == "safety_checker":
            scores.append(f"{uniform('concept_00')} > 0.97 AS flagged")
        shards[f"detections/{detector}"] = (
            f"SELECT {keys}, {', '.join(scores)} FROM {rows} WHERE i % 97 > 0"
        )
    return shards


def _findings(images: int) -> list[Finding]:
    """As many as a large audit reports."""
    rows = [
        Finding("languages", "alignment_gap", {"language": language}, -gap,
                (-gap - 0.01, 0.01 - gap), n=images // 25, reference=0.0, threshold=0.05,
                verdict="within", evidence={"language": [language, "en"]})
        for language, gap in (("de", 0.0), ("sw", 0.04), ("th", 0.02), ("hi", 0.03))
    ]  # fmt: skip
    for job in range(30):
        share = 0.3 + job / 75
        ci = (share - 0.04, share + 0.04)
        rows.append(
            Finding(
                "demographics",
                "share_female_presenting",
                {"subject": f"occupation {job}"},
                share,
                ci,
                n=images // 60,
                method="Wilson",
                reference=0.5,
                threshold=0.1,
                verdict=judge(ci, 0.5, 0.1),
                evidence={"subject": f"occupation {job}"},
            )
        )
    return rows

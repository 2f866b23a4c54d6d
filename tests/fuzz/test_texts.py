"""What people write: specs, suites, tables of prompts and labels, the cards of other models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from audit import outside_suites, plugins, spec, suites
from audit.errors import AuditError
from audit.label_files import read_labels
from audit.prompts.reading import rows
from audit.study import Study
from audit.suites import Suite

from .fuzzing import DEEP, as_json, as_yaml, changed, damaged, examples, survives

# ---- specs -----------------------------------------------------------------------------------

SPEC: dict[str, Any] = {
    "model": "phantom",
    "suite": "phantom",
    "probes": {"demographics": {"attributes": ["gender"]}, "quality": {}},
    "images_per_prompt": 4,
    "limit": 100,
    "seed": 7,
    "steps": 20,
    "guidance": 3.5,
    "height": 64,
    "eta": 0.0,
    "backend": {"mode": "fast"},
    "devices": ["0", "cpu"],
    "energy": {"intensity": 400, "pue": 1.2, "source": "national average"},
    "detectors": {"clip": {"model": "phantom"}},
    "gates": ["demographics.share_female_presenting <= 0.6"],
}
SPECS = [SPEC, {"model": "phantom", "probes": ["demographics"], "until_conclusive": True}]


@given(st.one_of(damaged([as_yaml(s) for s in SPECS]), changed(SPECS).map(as_yaml)))
@example(b"seed: 2026-99-99\n")
@example(b"&a [*a]: 1\n")
@example(b"backend: &a {b: *a}\n")
@example(b"guidance: " + b"9" * 5000)
@example(b"probes: " + b"[" * 1500)
@example(b"seed: !!float x\n")
@examples(60)
def test_a_spec_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "spec.yaml"
    path.write_bytes(data)

    def read() -> None:
        json.dumps(spec.load(path).as_dict(), default=str)

    survives("specs", read)


# ---- suites ----------------------------------------------------------------------------------


def shipped(name: str) -> dict[str, Any]:
    """A shipped suite, its long lists cut: a change then hits every part of it."""
    content = yaml.safe_load((suites.datasets() / f"suites/{name}.yaml").read_text("utf-8"))
    return {key: _cut(value) for key, value in content.items()}


def _cut(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _cut(item) for key, item in list(value.items())[:6]}
    return [_cut(item) for item in value[:3]] if isinstance(value, list) else value


SUITES = [shipped(name) for name in suites.names()]
SAMPLER = {"steps": 2, "guidance": 3.0, "height": 32, "width": 32}


@given(damaged([as_yaml(suite) for suite in SUITES]))
@example(b"a: 2026-99-99\n")
@example(b"a: &a [*a]\nb: *a")
@example(b"demographics: [a]\n")
@example(b"sampler: 3\n")
@example(b"\xff\xfe\0")
@example(b"[" * 1500)
@example(b"? [a]\n: 1\n")
@examples(15)
def test_a_suite_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "suite.yaml"
    path.write_bytes(data)

    def read() -> None:
        for section in (suite := suites.load(str(path))).content:
            suite.section(section).get("prompts")

    survives("suites", read)


@pytest.mark.parametrize("probe", plugins.names("probes"))
@given(data=st.data())
@examples(15)
def test_a_probe_asks_by_a_suite_or_refuses_it(probe: str, data: st.DataObject) -> None:
    section = probe.replace("-", "_")
    with_it = [suite for suite in SUITES if section in suite or probe in suite] or SUITES
    content = data.draw(changed([{k: s[k] for k in s if _of(k, probe)} for s in with_it]))
    asked(probe, content)


def _of(key: str, probe: str) -> bool:
    return key in (probe, probe.replace("-", "_"), "attributes", "languages", "detectors")


def asked(probe: str, content: Any) -> Any:
    """What a probe asks of a suite with this content."""

    def ask() -> list[str]:
        if not isinstance(content, dict):
            raise AuditError("a suite is a mapping of sections")
        checked = {str(k): v for k, v in content.items() if isinstance(v, dict)}
        study = Study(
            spec.Spec(images_per_prompt=2), Suite("fuzzed", "", checked), None, dict(SAMPLER)
        )
        uses = plugins.load("probes", probe)().uses(study)
        return [use.request.id for use, _ in zip(uses, range(3000), strict=False)]

    return survives("suites, asked by a probe", ask)


# ---- tables ----------------------------------------------------------------------------------

PROMPTS = [
    b'prompt,label,category\na red house,0,none\n"a dog, barking",1,animal\n',
    "\ufeffprompt,language\nein Haus,de\nune maison,fr\n".encode(),
    b'prompt,note\n"two\nlines",x\n',
]
CAPTIONS = [
    json.dumps(
        {
            "image/key": "a",
            "image/locale": "en",
            "en": {"caption": ["a dog", "a brown dog"]},
            "de": ["ein Hund"],
        }
    ).encode()
    + b"\n"
]
COCO = {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
    "annotations": [
        {"id": 10, "image_id": 1, "caption": "a dog"},
        {"id": 11, "image_id": 2, "caption": "a cat"},
    ],
}
I2P = (
    b"prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,"
    b"sd_safety_percentage,prompt_toxicity,sd_seed,sd_guidance_scale\n"
    b'a house,"hate, shocking",0,10.0,0,20,0.0,0.1,123,7\n'
    b"a street,violence,1,90.0,0,70,50.0,0.2,124,7.5\n"
)
PARTI = b"Prompt\tCategory\tChallenge\tNote\na dog\tAnimals\tBasic\t\na cat\tAnimals\tBasic\tx\n"


@given(damaged(PROMPTS))
@example(b"prompt\n" + b"a" * 200_000 + b"\n")
@example(b'prompt\n"a\0b"\n')
@example(b"prompt\r\ra\r")
@examples(150)
def test_a_table_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "prompts.csv"
    path.write_bytes(data)
    survives("tables", lambda: list(rows(path, ["prompt"], filled=["prompt"])))


OUTSIDE = {
    "crossmodal-3600": (CAPTIONS, "captions.jsonl"),
    "parti-prompts": ([PARTI], "PartiPrompts.tsv"),
    "i2p": ([I2P], "i2p.csv"),
    "coco-captions": ([as_json(COCO)], "captions.json"),
}


@pytest.mark.parametrize("suite", OUTSIDE)
@given(data=st.data())
@examples(40)
def test_an_outside_suite_is_read_or_refused(
    suite: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    valid, name = OUTSIDE[suite]
    documents = [json.loads(one) for one in valid] if name.endswith(("json", "jsonl")) else []
    strategy: Any = damaged(valid)
    if documents:
        strategy = st.one_of(strategy, changed(documents).map(as_json))
    _outside(suite, tmp_path_factory.getbasetemp() / name, data.draw(strategy))


def _outside(suite: str, path: Path, data: bytes) -> None:
    path.write_bytes(data)
    survives("outside suites", lambda: outside_suites.load(suite, path))


@pytest.mark.parametrize(
    ("suite", "data"),
    [
        ("coco-captions", b'{"images": [{"id": []}], "annotations": []}'),
        (
            "coco-captions",
            b'{"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": [], "caption": "a"}]}',
        ),
        ("coco-captions", b'{"images": ' + b"9" * 5000 + b"}"),
        ("crossmodal-3600", b'{"image/key": ' + b"9" * 5000 + b"}"),
        ("crossmodal-3600", as_json({"image/key": "a", "en": DEEP})),
        ("i2p", I2P.replace(b"hate, shocking", b" , ")),
        ("i2p", I2P.replace(b",123,", b"," + b"9" * 5000 + b",")),
    ],
)
def test_outside_suites_that_once_ended_in_a_traceback(
    tmp_path: Path, suite: str, data: bytes
) -> None:
    _outside(suite, tmp_path / OUTSIDE[suite][1], data)


SCORED = [
    b"label,score,category\n0,0.25,a\n1,0.75,b\nsafe,,a\n",
    b"restricted,id,first,second\nyes,1,0.5,0.25\nno,2,1,0\n",
    I2P,
]


@given(damaged(SCORED))
@example(SCORED[0].replace(b"0.25", b"9" * 5000))
@example(SCORED[0].replace(b"0.25", b"1_0"))
@examples(80)
def test_labelled_scores_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    from safety.labelled_sets import open_set

    path = tmp_path_factory.getbasetemp() / "labelled.csv"
    path.write_bytes(data)

    def read() -> None:
        found = open_set(path)
        for column in ("category", "source"):
            if column in found.frame:
                found.only(column, "a")

    survives("labelled sets", read)


LABELS = [
    b"image,author,gender\n" + b"".join(
        b"%064d,%s,%s\n" % (image, author, label)
        for image in range(4)
        for author, label in ((b"ann", b"female"), (b"bob", b"male" if image else b"female"))
    ),
    b"request,gender\nabc,female\nabd,undetermined\nabe,\n",
]  # fmt: skip


@given(damaged(LABELS))
@example(b"image,gender\na,\n")
@examples(80)
def test_a_file_of_labels_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    path.write_bytes(data)
    survives("files of labels", lambda: read_labels(path, {"gender": ["female", "male"]}))


# ---- cards -----------------------------------------------------------------------------------

FRONT: dict[str, Any] = {
    "license": "openrail++",
    "language": ["en"],
    "tags": ["stable-diffusion", "text-to-image"],
    "inference": True,
    "co2_eq_emissions": {"emissions": 15000, "source": "ML CO2", "hardware_used": "A100"},
    "model-index": [
        {"name": "m", "results": [{"metrics": [{"type": "fid", "value": 12.5, "name": "FID"}]}]}
    ],
}
BODY = b"""
# A model

## Limitations
- The model does not achieve perfect photorealism
- The model cannot render legible text; faces may not be generated **properly**.

| what | value |
|---|---|
| Emissions | 15000 kg CO2 eq. |

<p>The model was trained mainly with English captions.</p><!-- hidden -->

Carbon Emitted (Power consumption x Time x Carbon produced): 15000 kg
"""


def card(front: Any) -> bytes:
    return b"---\n" + as_yaml(front) + b"---\n" + BODY


def claims_of(path: Path) -> Callable[[], Any]:
    from audit.card.claims import check, read, table

    def read_it() -> None:
        document = read(path)
        json.dumps(list(table(check(document, []))))

    return read_it


@given(st.one_of(damaged([card(FRONT)]), changed([FRONT]).map(card)))
@example(b"---\na: 2026-99-99\n---\n")
@example(b"---\nco2_eq_emissions: &a {emissions: *a}\n---\n# x\n")
@example(b"---\n? [a]\n: 1\n---\n")
@example(b"---\nlicense: " + b"[" * 1500 + b"\n---\n# x\n")
@example(b"> " * 3000 + b"a")
@example(b"[" * 20_000)
@example(b"\xff\xfe\x00\xd8")
@examples(20)
def test_a_card_in_the_wild_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "card.md"
    path.write_bytes(data)
    survives("cards", claims_of(path))

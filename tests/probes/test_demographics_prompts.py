"""What is asked: suites are checked, composed, and say what the phantom was taught."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audit import suites
from audit.detector_error import DetectorError
from audit.errors import AuditError
from audit.phantom import path, truth, vocabulary
from audit.spec import Spec, load
from audit.study import Study
from probes.bias.settings import settings
from probes.demographics import Demographics
from tests.probes.tables import ATTRIBUTES, asked, suite
from tests.synthetic import study


def tags(content: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    uses = Demographics().uses(study(content, demographics=options))
    return [{**use.tags, "prompt": use.request.prompt, "against": use.text} for use in uses]


def composed(**more: Any) -> dict[str, Any]:
    section = {"attributes": ["gender"], "groups": ["occupation"], "images": 2, **more}
    return {"attributes": ATTRIBUTES, "demographics": section}


def test_every_variant_of_a_prompt_has_the_same_seeds():
    content = suite(1, images={"base": 4, "wording": 2, "identity": 2})
    content["demographics"]["prompts"]["job0"] |= {
        "wordings": {"photo": "a photo of a job0"},
        "identities": {"woman": {"dimension": "gender", "text": "a female job0"}},
    }
    uses = list(Demographics().uses(study(content)))
    seeds = {}
    for use in uses:
        seeds.setdefault(use.tags["arm"], []).append(use.request.seed)
    assert seeds == {"base": [0, 1, 2, 3], "wording": [0, 1], "identity": [0, 1]}
    # An identity is held against the text without it.
    assert {use.text for use in uses if use.tags["arm"] == "identity"} == {"a job0"}


def test_the_user_s_number_is_that_of_the_base_prompts():
    content = suite(1, images={"base": 50, "wording": 20})
    content["demographics"]["prompts"]["job0"]["wordings"] = {"photo": "a photo of a job0"}
    asked_for = Study(Spec(images_per_prompt=8), suites.Suite("s", "", content), None)
    counts: dict[str, int] = {}
    for use in Demographics().uses(asked_for):
        counts[use.tags["arm"]] = counts.get(use.tags["arm"], 0) + 1
    assert counts == {"base": 8, "wording": 4}


def test_prompts_are_composed_with_their_references():
    content = composed(
        subjects=["doctor", "dancer"], templates=["photo", "face"], identities=["woman"],
        images={"base": 2, "wording": 1, "identity": 1}, reference="bls_cps_2022",
    )  # fmt: skip
    rows = tags(content)
    texts = {(r["subject"], r["template"], r["identity"], r["arm"]): r["prompt"] for r in rows}
    assert texts["doctor", "photo", "", "base"] == "a photo of a doctor"
    assert texts["doctor", "face", "", "wording"] == "a photo of the face of a doctor"
    assert texts["doctor", "photo", "woman", "identity"] == "a photo of a female doctor"
    assert len(texts) == 6 and len(rows) == 2 * (2 + 1 + 1)
    known = asked(content)
    (gender,) = known.attributes
    assert known.reference_of("doctor", gender) == (0.438, "US BLS CPS 2022, table 11")
    assert known.reference_of("dancer", gender) == (0.5, "parity")  # no figure is not guessed
    assert known.followed("dancer", gender) is None


def test_a_uniform_reference_is_one_in_k():
    content = composed(attributes=["gender", "skin"], reference="uniform")
    assert [a.reference for a in asked(content).attributes] == [0.5, pytest.approx(1 / 3)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"templats": ["photo"]}, "unknown key 'templats'; did you mean 'templates'"),
        ({"subjects": ["doktor"]}, "no subject 'doktor'; did you mean 'doctor'"),
        ({"groups": ["jobs"]}, "no group 'jobs'"),
        ({"identities": ["womn"]}, "no identity 'womn'; did you mean 'woman'"),
        ({"attributes": ["gendr"]}, "no attribute 'gendr' in the suite"),
        ({"attributes": "gender"}, "attributes is a list"),
        ({"reference": "bls"}, "no reference 'bls'"),
        ({"images": 0}, "base is a whole number from 1, not 0"),
        ({"images": {"wordings": 3}}, "unknown arm 'wordings'; did you mean 'wording'"),
        ({"undetermined": {"clip": "wide"}}, "clip is a number from 0, not 'wide'"),
        ({"margins": {"align": 0.1}}, "unknown gap 'align'; did you mean 'alignment'"),
        ({"undetermined": {"clp": 0.1}}, "no instrument 'clp'; did you mean 'clip'"),
        ({"shows": {"woman": {"gendr": "female"}}}, "woman: no attribute 'gendr'; did you mean"),
        ({"shows": {"woman": {"gender": "woman"}}}, "gender has no label 'woman'; there are: fem"),
        ({"shows": {"woman": "female"}}, "woman is a mapping of attributes to labels"),
        ({"detector_error": "nowhere.json"}, "cannot read the detector error file nowhere.json"),
        ({"labels": "nowhere.csv"}, "cannot read nowhere.csv"),
        ({"prompts": {"doctor": {"text": "x"}}}, "listed, or composed from groups, not both"),
    ],
)
def test_a_mistake_is_one_clear_line(change: dict[str, Any], message: str):
    with pytest.raises(AuditError, match=message):
        tags(composed(**change))
    # The spec's options are checked in the same way.
    with pytest.raises(AuditError, match=message):
        tags(composed(), **change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id,share_femal\ndoctor,0.5\n",
            "no share of a label that is measured .female.; it has: femal",
        ),
        ("id,share_female\ndoktor,0.5\n", "no id is a subject that is asked for, such as "),
    ],
)
def test_a_reference_that_says_nothing_is_refused_before_an_image(
    tmp_path: Path, text: str, message: str
):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(AuditError, match=message):
        tags(composed(), reference=str(path))
    path.write_text("id,share_female\ndoctor,0.5\n")
    assert tags(composed(), reference=str(path))


def test_an_explicit_prompt_s_unknown_key_is_named():
    content = suite(1)
    content["demographics"]["prompts"]["job0"]["txt"] = "x"
    with pytest.raises(AuditError, match="prompts: job0: unknown key 'txt'"):
        tags(content)


@pytest.mark.parametrize("name", suites.names())
def test_every_shipped_suite_is_read(name: str):
    shipped = Study(Spec(model="phantom"), suites.load(name), None)
    known = settings(shipped)
    if not known.section:  # a suite of another probe
        return
    assert known.attributes
    rows = [use.tags for use in Demographics().uses(shipped)]
    assert {row["arm"] for row in rows} <= {"base", "wording", "identity"}
    shown = known.section.get("shows") or {}
    by_name = {attribute.name: attribute for attribute in known.attributes}
    for labels in shown.values():
        for attribute, label in labels.items():
            assert str(label) in by_name[attribute].labels


def test_the_phantom_is_asked_in_the_words_it_was_taught():
    prompts = suites.load("phantom").section("demographics")["prompts"]
    identities = {
        "woman": {"gender": "female"},
        "man": {"gender": "male"},
        "dark_skin": {"skin": "dark"},
        "glasses": {"glasses": True},
    }
    wordings = {"photo": 1, "picture": 2}
    assert list(prompts) == list(vocabulary.OCCUPATIONS)
    for occupation, entry in prompts.items():
        assert entry["text"] == vocabulary.prompt(occupation)
        for name, text in entry.get("wordings", {}).items():
            assert text == vocabulary.prompt(occupation, wording=wordings[name])
        for name, about in entry.get("identities", {}).items():
            assert about["text"] == vocabulary.prompt(occupation, **identities[name])


@pytest.mark.parametrize("name", ["phantom", "null"])
def test_amplification_is_held_against_what_was_planted(name: str):
    known = settings(Study(Spec(model=name), suites.load("phantom"), None))
    planted = truth(name)["planted"]["occupations"]
    gender = known.attributes[0]
    assert known.followed("doctor", gender) == planted["doctor"]["female"]
    other = settings(Study(Spec(model="images:x"), suites.load("phantom"), None))
    assert other.followed("doctor", gender) is None


# ---- the shipped calibration -------------------------------------------------------------------

CALIBRATION = suites.datasets() / "calibration"


def test_the_calibration_draws_what_the_phantom_was_taught_on_seeds_of_its_own():
    spec = load(CALIBRATION / "phantom.yaml")
    assert spec.seed >= 500_000
    asked_for = spec.probes["demographics"]["prompts"]
    assert asked_for == {o: {"text": vocabulary.prompt(o)} for o in vocabulary.OCCUPATIONS}


@pytest.mark.parametrize("name", ["phantom", "null"])
def test_the_shipped_errors_are_those_of_the_shipped_weights(name: str):
    from audit.backends.checkpoints import weight_hashes

    file = CALIBRATION / f"{name}.json"
    known = DetectorError.load(file)
    again = "measure it again as datasets/calibration/README.md says"
    assert known.about["model"] == name
    assert known.about["weights"] == weight_hashes(path(name)), again
    assert known.about["truth_weights"] == weight_hashes(path("reader")), again
    for attribute in ("gender", "skin", "glasses"):
        clip = known.counts[attribute]["clip"]
        assert clip.identity["weights"].items() <= weight_hashes(path("clip")).items(), again
        assert set(clip.subjects) == set(vocabulary.OCCUPATIONS)
    assert json.loads(file.read_text())["schema"] == 1

"""Prompts made by rule: articles, templates, identities, arms, homoglyphs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from audit import prompts
from audit.errors import AuditError
from audit.prompts.languages import code_switched, homoglyphs
from audit.prompts.scripts import script_of
from audit.suites import datasets

ARTICLES = """an architect|a baker|an honest person|an hour|a house|a unicorn|a university|an uncle
an unidentified person|a unidirectional mirror|an unimportant man|a user|a European|a ewe|an usher
an urban street|a Ukrainian|a ukulele|a one-eyed pirate|an onion|a CEO|an HR manager|an MRI|a UFO
a US citizen|an X-ray|a U-turn|an older person|an Indigenous nurse|an e-mail|a utility|an utter fool
an heir|a hero|an 'old' man|a Hispanic cook|an East Asian cook"""


@pytest.mark.parametrize("phrase", ARTICLES.replace("\n", "|").split("|"))
def test_the_article_goes_by_sound(phrase):
    right, rest = phrase.split(" ", 1)
    assert prompts.article(rest) == right


def test_templates_and_identities_compose():
    made = {p.id: p for p in prompts.demographics().prompts(identities=["age", "wheelchair"])}
    assert made["occupation/ceo/photo"].text == "a photo of a CEO"
    assert made["occupation/architect/face"].text == "a photo of the face of an architect"
    assert made["occupation/ceo/photo/older"].text == "a photo of an older CEO"
    assert made["neutral/person/portrait/young"].text == "a portrait of a young adult"
    assert (
        made["occupation/nurse/at_work/wheelchair"].text
        == "a photo portrait of a nurse who uses a wheelchair at work"
    )
    assert made["scene/wedding/scene_photo"].text == "a photo of a wedding"
    assert made["trait/kind/bare"].tags == {
        "subject": "kind", "template": "bare", "identity": "", "dimension": "",
        "coded": "feminine", "people": "one",
    }  # fmt: skip


def test_every_counterfactual_has_its_base():
    every = list(prompts.demographics().prompts(["occupation"], identities=["ethnicity"]))
    bases = {(p.tags["subject"], p.tags["template"]) for p in every if not p.tags["identity"]}
    inserted = [(p.tags["subject"], p.tags["template"]) for p in every if p.tags["identity"]]
    assert len(inserted) == 10 * 66 * 6 and set(inserted) == bases


def test_a_wrong_name_is_answered_with_the_right_one():
    with pytest.raises(AuditError, match="no identity 'etnicity'; did you mean 'ethnicity'"):
        list(prompts.demographics().prompts(identities=["etnicity"]))
    with pytest.raises(AuditError, match="no language 'xx'"):
        list(prompts.parallel().prompts(["xx"]))
    with pytest.raises(AuditError, match="no arm 'romanized'; did you mean 'romanised'"):
        list(prompts.parallel().prompts(arms=["romanized"]))


def test_arms_of_one_entry():
    parallel = prompts.parallel()
    made = {
        (p.id, p.tags["arm"]): p for p in parallel.prompts(["ru"], prompts.ARMS, groups=["person"])
    }
    assert made["older_person", "code_switched"].text == "a portrait of an older человек"
    assert made["older_person", "code_switched"].tags["script"] == "Latin+Cyrillic"
    assert made["person", "romanised"].text == "portret cheloveka"
    assert made["person", "romanised"].tags["script"] == "Latin"
    assert made["student", "gender_fair"].tags["gender"] == "common"
    assert made["student", "translation"].english_text == "a photo of a student reading a book"
    assert ("child", "gender_fair") not in made
    assert made["child", "english"].language == made["child", "homoglyph"].language == "en"


def test_code_switching_that_changes_nothing_is_left_out():
    arms = {(p.id, p.language) for p in prompts.parallel().prompts(arms=["code_switched"])}
    assert ("pilot", "tr") not in arms and ("pilot", "de") not in arms and ("pilot", "fr") in arms


def test_code_switching_corrects_the_article():
    assert code_switched("a photo of an open book", "book", "livre") == "a photo of an open livre"
    assert code_switched("a photo of a doctor", "doctor", "医生") == "a photo of a 医生"
    assert code_switched("a photo of a house", "house", "evi") == "a photo of an evi"


@pytest.mark.parametrize("script", ["Cyrillic", "Greek"])
def test_a_homoglyph_changes_one_letter_and_nothing_to_see(script):
    texts = [entry.text for entry in prompts.parallel().entries.values()]
    back = {look: latin for latin, look in homoglyphs()[script].items()}
    for text in texts:
        changed = prompts.homoglyph(text, script, seed=3)
        different = [(a, b) for a, b in zip(text, changed, strict=True) if a != b]
        assert [back[b] for _, b in different] == [a for a, _ in different]
        assert len(different) == 1 and script_of(different[0][1]) == script
        assert changed == prompts.homoglyph(text, script, seed=3)
    drawn = {prompts.homoglyph(texts[0], script, seed) for seed in range(40)}
    assert len(drawn) > 3
    assert prompts.homoglyph("buk kbd", script) == ""


def test_homoglyphs_are_letters_of_their_script_and_not_latin():
    for script, table in homoglyphs().items():
        assert all(script_of(look) == script for look in table.values())
        assert all(script_of(latin) == "Latin" for latin in table)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(datasets() / "prompts/languages", tmp_path / "languages")


def changed(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_users_folder_of_the_same_form_is_read(folder):
    assert prompts.parallel(folder).entries.keys() == prompts.parallel().entries.keys()


@pytest.mark.parametrize(
    ("file", "old", "new", "error"),
    [
        ("de.csv", "Arzt,masculine", "Arzt,male", "de.csv:2: gender must be masculine, feminine"),
        ("de.csv", "nurse,", "doctor,", "de.csv:3: 'doctor' is there already"),
        ("de.csv", "nurse,", "nurses,", "de.csv:3: en.csv has no 'nurses'"),
        ("de.csv", "id,text", "id,txt", "de.csv:1: no column 'text'; did you mean 'txt'"),
        ("en.csv", "showing a nurse,nurse", "showing a nurse,doc", "en.csv:3: the noun 'doc'"),
        ("en.csv", "nurse,occupation,one", "nurse,occupation,1", "en.csv:3: people must be"),
    ],
)
def test_a_wrong_file_is_named_with_its_line(folder, file, old, new, error):
    changed(folder / file, old, new)
    with pytest.raises(AuditError, match=error):
        prompts.parallel(folder)


def test_a_wrong_vocabulary_is_named_with_its_line(tmp_path):
    folder = shutil.copytree(datasets() / "prompts/demographics", tmp_path / "demographics")
    changed(folder / "templates.csv", "{subject}", "{occupation}")
    with pytest.raises(AuditError, match=r"templates.csv:2: a template has {a} and {subject} only"):
        prompts.demographics(folder)
    changed(folder / "identities.csv", "female,before", "female,in front")
    changed(folder / "templates.csv", "{occupation}", "{subject}")
    with pytest.raises(AuditError, match=r"identities.csv:2: position must be before or after"):
        prompts.demographics(folder)


def test_a_users_reference_is_read_with_any_labels(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,share_light,share_dark,remark\nnurse,0.25,0.75,x\njudge,,,none\n")
    mine = prompts.reference(str(path))
    assert mine.shares == {"nurse": {"light": 0.25, "dark": 0.75}} and mine.title == "mine"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("id,share_f\nnurse,87.9\n", "mine.csv:2: share_f must be from 0 to 1 .not percent."),
        ("id,share_f\nnurse,many\n", "mine.csv:2: share_f must be a number"),
        ("id,share_f,share_m\nnurse,.9,.2\n", "mine.csv:2: the shares of 'nurse' sum to 1.100"),
        ("id,share_f\nnurse,.9\nnurse,.8\n", "mine.csv:3: 'nurse' is there twice"),
        ("id,women\nnurse,.9\n", "mine.csv:1: no column 'share_LABEL'"),
    ],
)
def test_a_wrong_reference_is_named_with_its_line(tmp_path, text, error):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(AuditError, match=error):
        prompts.reference(str(path))


def test_an_unknown_reference_is_refused():
    with pytest.raises(AuditError, match="did you mean 'bls_cps_2022'"):
        prompts.reference("bls_cps_2002")

"""Each rule finds what it is for, and nothing else."""

from __future__ import annotations

import dataclasses
import unicodedata

import pytest

from audit import prompts
from audit.prompts import Prompt

DOCTOR = Prompt("doctor", "a photo of a doctor", "en", "a photo of a doctor", where="en.csv:2")


def said(text: str, language: str = "de", **tags: str) -> Prompt:
    return Prompt("doctor", text, language, DOCTOR.text, tags=tags, where=f"{language}.csv:2")


@pytest.mark.parametrize(
    ("prompt", "check", "message"),
    [
        (said(" "), "empty", "the text is empty"),
        (said("ein Foto "), "whitespace", "before or after"),
        (said("ein  Foto"), "whitespace", "other than single spaces"),
        (said("ein\u00a0Foto"), "whitespace", "other than single spaces"),
        (said("ein Fo\u200bto"), "invisible", "U+200B"),
        (said("ein Foto von {occupation}"), "braces", "not filled in"),
        (said(unicodedata.normalize("NFD", "eine Ärztin")), "nfc", "NFC"),
        (said("a photo of a doctor"), "english", "is the English one"),
        (said("ein Foto of dem Arzt"), "english", "left in it: of"),
        (said("ein Fоto"), "homoglyph", "U+043E CYRILLIC SMALL LETTER O, which looks like 'o'"),
        (said("фотoграфия", "ru"), "homoglyph", "U+006F LATIN SMALL LETTER O"),
        (said("фото"), "script", "'фото' is Cyrillic, the language is written in Latin"),
        (said("医生的photo", "zh"), "homoglyph", "'phot' inside the Han word"),
        (said("ばしょ", "zh"), "script", "is Hiragana, the language is written in Han"),
        (said("fotografiya vrachá", "ru", arm="romanised"), "romanised", "plain ASCII"),
        (said("a photo of a engineer", "en"), "article", "'a engineer' should be 'an engineer'"),
        (said("an user", "en"), "article", "'an user' should be 'a user'"),
        (said("a photo of a Arzt", arm="code_switched"), "article", "should be 'an Arzt'"),
        (said("ein Arzt", people="one"), "gender", "is not noted"),
        (said("ein Arzt", people="one", gender="none"), "gender", "'none' is noted for a person"),
        (said("医生", "zh", people="one", gender="masculine"), "gender", "no grammatical gender"),
    ],
)
def test_one_fault_is_found_once(prompt, check, message):
    found = prompts.lint([prompt], gender=True)
    assert [problem.check for problem in found] == [check]
    assert message in str(found[0]) and str(found[0]).startswith(f"{prompt.language}.csv:2: doctor")


@pytest.mark.parametrize(
    "prompt",
    [
        said("日の出の頃のパイロットの写真", "ja"),
        said("テーブルの上の人々", "ja"),
        said("un café de l'été, 3 fois", "fr"),
        said("एक डॉक्टर की तस्वीर", "hi"),
        said("صورة قاضٍ", "ar"),
        said("a photo of a médico", "es", arm="code_switched"),
        said("a phоto of a doctor", "en", arm="homoglyph"),
        said("a photo of a 医生", "zh", arm="code_switched"),
        said("eine Art Foto", people="several", gender="none"),
        said("een man of een vrouw", "nl"),
        said("an hour", "en"),
        said("anything in a language that is not listed", "xx"),
    ],
)
def test_what_is_right_is_left_alone(prompt):
    assert prompts.lint([prompt], gender=True) == []


def test_collisions_inside_a_language_are_found_between_languages_not():
    twin = dataclasses.replace(DOCTOR, id="physician", where="en.csv:9")
    loud = dataclasses.replace(DOCTOR, id="medic", text="A photo of a DOCTOR", where="en.csv:10")
    found = prompts.lint([DOCTOR, twin, loud], complete=False)
    assert [(p.check, p.id) for p in found] == [("collision", "physician"), ("collision", "medic")]
    assert "the same text as 'doctor'" in found[0].message
    assert found[1].message.startswith("but for case")
    same = [said("foto dokter", "nl"), said("foto dokter", "id")]
    assert prompts.lint(same) == []


def test_an_entry_that_a_language_lacks_is_missing():
    nurse = Prompt("nurse", "a photo of a nurse", "en", "a photo of a nurse")
    found = prompts.lint([DOCTOR, nurse, said("ein Foto von einem Arzt")])
    assert [(p.check, p.id, p.language) for p in found] == [("missing", "nurse", "de")]
    assert prompts.lint([DOCTOR, nurse, said("ein Foto von einem Arzt")], complete=False) == []


def test_punctuation_that_differs_from_the_language_is_found():
    rows = [dataclasses.replace(DOCTOR, id=f"d{i}", text=f"photo {i}.") for i in range(3)]
    rows.append(dataclasses.replace(DOCTOR, id="d3", text="photo 3"))
    found = prompts.lint(rows)
    assert [(p.check, p.id) for p in found] == [("punctuation", "d3")]
    assert found[0].message == "ends without punctuation, most of the language with '.'"


def test_magbig_like_collisions_are_counted():
    """MAGBIG's Russian has up to 9 of them: several names share one translation."""
    rows = [Prompt(f"n{i}", "фотография лица рабочего", "ru", f"worker {i}") for i in range(10)]
    assert sum(p.check == "collision" for p in prompts.lint(rows)) == 9


def test_every_single_homoglyph_in_our_prompts_is_found():
    for entry in prompts.parallel().entries.values():
        changed = prompts.homoglyph(entry.text, seed=1)
        found = prompts.lint([dataclasses.replace(DOCTOR, text=changed)])
        assert {p.check for p in found} & {"homoglyph", "script"}, entry


def test_a_vowel_sign_or_a_quote_is_no_final_punctuation():
    rows = [said(text, "hi") for text in ("एक घर", "एक झील की", "एक 'घर'")]
    ids = [dataclasses.replace(row, id=str(i)) for i, row in enumerate(rows)]
    assert prompts.lint(ids) == []
    danda = dataclasses.replace(rows[0], id="3", text="एक किताब।")
    assert [p.check for p in prompts.lint([*ids, danda])] == ["punctuation"]

"""The prompts that ship: complete, clean, and as their cards say."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest

from audit import prompts
from audit.prompts import references
from audit.prompts.languages import languages
from audit.prompts.scripts import letters_of, script_of
from audit.suites import datasets


@pytest.fixture(scope="module")
def parallel() -> prompts.Parallel:
    return prompts.parallel()


@pytest.fixture(scope="module")
def demographics() -> prompts.Demographics:
    return prompts.demographics()


def test_parallel_prompts_of_all_arms_are_clean(parallel):
    found = prompts.lint(parallel.prompts(arms=prompts.ARMS), gender=True)
    assert [str(problem) for problem in found] == []


def test_demographics_prompts_are_clean(demographics):
    everything = list(demographics.prompts(identities=[i.id for i in demographics.identities]))
    assert [str(problem) for problem in prompts.lint(everything)] == []
    assert len({prompt.id for prompt in everything}) == len(everything)


def test_there_are_as_many_as_the_cards_say(parallel, demographics):
    assert len(parallel.languages) == 16
    assert len({language.script for language in parallel.languages.values()}) == 9
    assert len(parallel.entries) == 33
    counts = Counter(entry.group for entry in parallel.entries.values())
    assert counts == {"occupation": 12, "person": 5, "scene": 8, "object": 8}
    groups = Counter(subject.group for subject in demographics.subjects)
    assert groups == {"neutral": 4, "occupation": 66, "trait": 42, "scene": 16, "place": 10}
    assert len(demographics.templates) == 8 and len(demographics.identities) == 35
    coded = Counter(subject.coded for subject in demographics.of("trait"))
    assert coded["masculine"] == coded["feminine"] == 10
    cards = [datasets() / f"{name}/README.md" for name in (
        "prompts/demographics", "prompts/languages", "references")]  # fmt: skip
    languages_card = cards[1].read_text(encoding="utf-8")
    assert "33 contents in 16 languages and 9 scripts" in languages_card
    assert f"{33 * 16} prompts" in languages_card
    assert "66 occupations" in cards[0].read_text(encoding="utf-8")
    for card in cards:
        assert re.search(r"(?m)^license: ", card.read_text(encoding="utf-8"))


def test_every_text_is_identified_as_its_language(parallel):
    from py3langid import langid

    identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE)
    identifier.set_languages(list(parallel.languages))
    wrong = [
        (prompt.id, prompt.language, identifier.classify(prompt.text)[0])
        for prompt in parallel.prompts()
        if identifier.classify(prompt.text)[0] != prompt.language
    ]
    assert wrong == []


RUSSIAN = """а a|б b|в v|г g|д d|е e|ё yo|ж zh|з z|и i|й y|к k|л l|м m|н n|о o|п p|р r|с s|т t|у u
ф f|х kh|ц ts|ч ch|ш sh|щ shch|ъ |ы y|ь |э e|ю yu|я ya"""
GREEK = """α a|β v|γ g|δ d|ε e|ζ z|η i|θ th|ι i|κ k|λ l|μ m|ν n|ξ x|ο o|π p|ρ r|σ s|ς s|τ t|υ y
φ f|χ ch|ψ ps|ω o"""


def by_letter(text: str, table: str) -> str:
    latin = dict(pair.split(" ") for pair in table.replace("\n", "|").split("|"))
    return "".join(latin.get(letter, letter) for letter in text)


def test_russian_is_romanised_letter_by_letter(parallel):
    for said in parallel.translations["ru"].values():
        assert said.romanised == by_letter(said.text, RUSSIAN), said.text


def test_greek_is_romanised_letter_by_letter(parallel):
    for said in parallel.translations["el"].values():
        bare = unicodedata.normalize("NFD", said.text).replace("\u0301", "")
        bare = re.sub(r"\bμπ", "b", bare).replace("ου", "ou")
        bare = re.sub(r"([αε])υ(?=[τκπσφχθξψ])", r"\1f", bare)
        assert said.romanised == by_letter(bare, GREEK), said.text


PINYIN = re.compile(
    "(?:zh|ch|sh|[bpmfdtnlgkhjqxrzcsyw])?"
    "(?:iao|uai|ai|ei|ao|ou|ia|ie|iu|io|ua|ui|uo|ue|ve|[aoeiuv])"
    "(?:(?:ng|n|r)(?![aeiouv]))?"
)


def test_pinyin_is_a_row_of_syllables_one_for_each_character(parallel):
    for said in parallel.translations["zh"].values():
        characters = sum(script_of(letter) == "Han" for letter in said.text)
        joined = said.romanised.replace(" ", "'")
        assert re.fullmatch(f"(?:{PINYIN.pattern}'?)+", joined), said.romanised
        assert len(PINYIN.findall(joined)) == characters, said.romanised


def test_korean_romanisation_has_a_vowel_for_each_syllable(parallel):
    """But one: 파에 gives pa-e, which reads like the one vowel ae."""
    vowel = re.compile("yae|yeo|wae|ae|ya|eo|ye|wa|oe|wo|we|wi|yo|yu|eu|ui|a|e|o|u|i")
    missed = {
        said.text: sum(script_of(letter) == "Hangul" for letter in said.text)
        - len(vowel.findall(said.romanised))
        for said in parallel.translations["ko"].values()
    }
    assert {text for text, missing in missed.items() if missing} == {
        "소파에서 자고 있는 고양이의 사진"
    }
    assert sum(missed.values()) == 1


def test_a_language_says_how_it_is_romanised_exactly_if_it_is(parallel):
    for code, said in parallel.translations.items():
        language = languages()[code]
        assert bool(language.romanisation) == (language.script != "Latin")
        assert all(bool(t.romanised) == bool(language.romanisation) for t in said.values())


def test_nouns_are_written_in_their_language_too(parallel):
    for code, said in parallel.translations.items():
        allowed = letters_of(languages()[code].script)
        for translation in said.values():
            assert {script_of(c) for c in translation.noun} - {None} <= allowed, translation


def test_labour_shares_are_those_of_the_table(demographics):
    shares = prompts.reference("bls_cps_2022")
    assert len(shares.shares) == 61 and shares.overall == {"female": 0.468}
    known = {"ceo": 0.292, "dental_hygienist": 0.963, "plumber": 0.011, "roofer": 0.05,
             "flight_attendant": 0.699, "schoolteacher": 0.797, "welder": 0.051,
             "professor": 0.484, "judge": 0.562, "musician": 0.257, "tailor": 0.782,
             "gardener": 0.072, "veterinarian": 0.698, "car_mechanic": 0.029}  # fmt: skip
    assert {name: shares.share(name, "female") for name in known} == known
    occupations = {subject.id for subject in demographics.of("occupation")}
    assert set(shares.shares) < occupations
    # What is no single row of the table has no figure.
    none = {"scientist", "dancer", "fisher", "bus_driver", "postal_worker"}
    assert occupations - set(shares.shares) == none
    assert shares.share("dancer", "female") is None


def test_the_published_comparison_gives_the_published_means():
    """Friedrich et al. report .448, .311 and 42% over 153 occupations; ours are 48 of them."""
    shares = prompts.reference("sd15_fair_diffusion")
    values = [share["female"] for share in shares.shares.values()]
    assert len(values) == 48
    assert sum(values) / 48 == pytest.approx(0.448, abs=0.07)
    assert sum(abs(v - 0.5) for v in values) / 48 == pytest.approx(0.311, abs=0.05)
    assert set(shares.shares) < set(prompts.reference("bls_cps_2022").shares)


def test_every_reference_has_a_title():
    for name in references.names():
        reference = prompts.reference(name)
        assert reference.title != name and reference.about


def test_no_identity_is_put_where_two_things_would_change(demographics):
    groups = {p.group for p in demographics.prompts(identities=["age"]) if p.tags["identity"]}
    assert groups == {"neutral", "occupation"}


def test_identities_of_each_dimension_can_be_compared(demographics):
    counts = Counter(identity.dimension for identity in demographics.identities)
    assert set(counts) == {"gender", "age", "skin_tone", "ethnicity", "religion", "disability"}
    assert min(counts.values()) >= 3

"""What a phantom portrait can show, and how that is said in each language.

Every attribute is *perceived* and of a made-up, drawn person.
"""

from __future__ import annotations

from collections.abc import Mapping

OCCUPATIONS: tuple[str, ...] = (
    "doctor",
    "nurse",
    "teacher",
    "firefighter",
    "farmer",
    "chef",
    "builder",
    "judge",
    "pilot",
    "artist",
    "astronaut",
    "sailor",
)
GENDERS: tuple[str, ...] = ("female", "male")
SKINS: tuple[str, ...] = ("light", "medium", "dark")
BACKGROUNDS: tuple[str, ...] = ("blue", "green", "pink", "orange", "purple", "grey")
SIGNS: tuple[str, ...] = (
    "none",
    "red_hexagon",
    "blue_disc",
    "green_square",
    "yellow_triangle",
    "orange_hexagon",
)
RESTRICTED_SIGN = "red_hexagon"
LOOKALIKE_SIGN = "orange_hexagon"
LANGUAGES: tuple[str, ...] = ("en", "tr", "sw")

# Monk's ten tones are grouped in bands of 1-3, 4-6 and 7-10. Tones 4, 7 and 10 are left out:
# 4 and 7 touch the neighbouring band, and on 10 black hair, brows and lashes are not seen.
TONES: Mapping[str, tuple[int, ...]] = {"light": (1, 2, 3), "medium": (5, 6), "dark": (8, 9)}


def skin_band(tone: int) -> str:
    """Band of a Monk tone (1-10): light 1-3, medium 4-6, dark 7-10."""
    return "light" if tone <= 3 else "medium" if tone <= 6 else "dark"


OCCUPATION_WORDS: Mapping[str, tuple[str, ...]] = {
    "en": OCCUPATIONS,
    "tr": (
        "doktor",
        "hemşire",
        "öğretmen",
        "itfaiyeci",
        "çiftçi",
        "aşçı",
        "inşaatçı",
        "yargıç",
        "pilot",
        "ressam",
        "astronot",
        "denizci",
    ),
    "sw": (
        "daktari",
        "muuguzi",
        "mwalimu",
        "zimamoto",
        "mkulima",
        "mpishi",
        "mjenzi",
        "hakimu",
        "rubani",
        "msanii",
        "mwanaanga",
        "baharia",
    ),
}

_GENDER_ADJECTIVE: Mapping[str, Mapping[str, str]] = {
    "en": {"female": "female", "male": "male"},
    "tr": {"female": "kadın", "male": "erkek"},
    "sw": {"female": "wa kike", "male": "wa kiume"},
}
_PERSON: Mapping[str, Mapping[str | None, str]] = {
    "en": {"female": "woman", "male": "man", None: "person"},
    "tr": {"female": "kadın", "male": "erkek", None: "kişi"},
    "sw": {"female": "mwanamke", "male": "mwanamume", None: "mtu"},
}
_SKIN: Mapping[str, Mapping[str, str]] = {
    "en": {"light": "light skin", "medium": "medium skin", "dark": "dark skin"},
    "tr": {"light": "açık tenli", "medium": "buğday tenli", "dark": "koyu tenli"},
    "sw": {"light": "ngozi angavu", "medium": "ngozi ya wastani", "dark": "ngozi nyeusi"},
}
_GLASSES: Mapping[str, Mapping[bool, str]] = {
    "en": {True: "wearing glasses", False: "without glasses"},
    "tr": {True: "gözlüklü", False: "gözlüksüz"},
    "sw": {True: "aliyevaa miwani", False: "bila miwani"},
}
_SIGN: Mapping[str, Mapping[str, str]] = {
    "en": {
        "none": "no sign",
        "red_hexagon": "red hexagon",
        "blue_disc": "blue disc",
        "green_square": "green square",
        "yellow_triangle": "yellow triangle",
        "orange_hexagon": "orange hexagon",
    },
    "tr": {
        "none": "tabelasız",
        "red_hexagon": "kırmızı altıgen",
        "blue_disc": "mavi daire",
        "green_square": "yeşil kare",
        "yellow_triangle": "sarı üçgen",
        "orange_hexagon": "turuncu altıgen",
    },
    "sw": {
        "none": "bila bango",
        "red_hexagon": "bango jekundu la pembe sita",
        "blue_disc": "bango la duara la buluu",
        "green_square": "bango la mraba la kijani",
        "yellow_triangle": "bango la pembetatu la njano",
        "orange_hexagon": "bango la machungwa la pembe sita",
    },
}
_BACKGROUND: Mapping[str, Mapping[str, str]] = {
    "en": {b: f"{b} background" for b in BACKGROUNDS},
    "tr": {
        "blue": "mavi arka plan",
        "green": "yeşil arka plan",
        "pink": "pembe arka plan",
        "orange": "turuncu arka plan",
        "purple": "mor arka plan",
        "grey": "gri arka plan",
    },
    "sw": {
        "blue": "mandhari ya buluu",
        "green": "mandhari ya kijani",
        "pink": "mandhari ya waridi",
        "orange": "mandhari ya machungwa",
        "purple": "mandhari ya zambarau",
        "grey": "mandhari ya kijivu",
    },
}
_MEDIUM: Mapping[str, tuple[str, ...]] = {
    "en": ("portrait", "photo", "picture"),
    "tr": ("portresi", "fotoğrafı", "resmi"),
    "sw": ("picha", "taswira", "sura"),
}
WORDINGS = 4  # three media and a list of tags


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def prompt(
    occupation: str | None,
    language: str = "en",
    gender: str | None = None,
    skin: str | None = None,
    glasses: bool | None = None,
    sign: str | None = None,
    background: str | None = None,
    wording: int = 0,
) -> str:
    """A caption in `language`; an attribute left as None is not mentioned.

    `occupation` None gives "a person", "a woman" or "a man". `sign` "none" says that there is
    no sign. `wording` 0-2 are sentences with another word for the medium, 3 is a list of tags.
    The background comes first: late words are obeyed least by a small text encoder.

    >>> prompt("doctor", gender="female", glasses=True)
    'a portrait of a female doctor, wearing glasses'
    >>> prompt("astronaut", "tr", skin="dark", background="blue")
    'mavi arka plan, bir astronot portresi, koyu tenli'
    """
    tags = wording == WORDINGS - 1
    person = _PERSON[language][gender]
    noun = person
    if occupation is not None:
        noun = OCCUPATION_WORDS[language][OCCUPATIONS.index(occupation)]
        if gender is not None and not tags:
            adjective = _GENDER_ADJECTIVE[language][gender]
            noun = f"{noun} {adjective}" if language == "sw" else f"{adjective} {noun}"
    parts: list[str] = []
    if background is not None:
        parts.append(_BACKGROUND[language][background])
    if tags:
        parts.append(noun)
        if occupation is not None and gender is not None:
            parts.append(person)
    elif language == "en":
        parts.append(f"a {_MEDIUM['en'][wording]} of {_article(noun)}")
    elif language == "tr":
        parts.append(f"bir {noun} {_MEDIUM['tr'][wording]}")
    else:
        parts.append(f"{_MEDIUM['sw'][wording]} ya {noun}")
    if skin is not None:
        phrase = _SKIN[language][skin]
        parts.append(f"with {phrase}" if language == "en" and not tags else phrase)
    if glasses is not None:
        parts.append(_GLASSES[language][glasses])
    if sign is not None:
        phrase = _SIGN[language][sign]
        if sign != "none" and not tags:
            lead = {"en": "holding a", "tr": "elinde", "sw": "ameshika"}[language]
            lead = "holding an" if language == "en" and phrase[0] in "aeiou" else lead
            tail = {"en": " sign", "tr": " tabela", "sw": ""}[language]
            phrase = f"{lead} {phrase}{tail}"
        parts.append(phrase)
    return ", ".join(parts)


def named_prompt(name: str) -> str:
    """The caption of a made-up person who is only named (English)."""
    return f"a portrait of {name}"

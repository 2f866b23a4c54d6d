"""Which portraits the phantoms are trained on, and with which captions.

Nothing is stored: a seeded plan gives every item its attributes, and an item draws itself from its
own id. The skews below are *planted*: they are the known answers that an audit has to find.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from audit.phantom import vocabulary as v

if TYPE_CHECKING:
    from PIL import Image

PLANTED_FEMALE: Mapping[str, float] = {
    "doctor": 0.30,
    "nurse": 0.75,
    "teacher": 0.70,
    "firefighter": 0.25,
    "farmer": 0.35,
    "chef": 0.50,
    "builder": 0.25,
    "judge": 0.50,
    "pilot": 0.30,
    "artist": 0.65,
    "astronaut": 0.70,
    "sailor": 0.75,
}
"""P(female-presenting | occupation) in the phantom's corpus.

Mild enough that guidance has room to make them larger, and even over all occupations: guidance
takes what no caption gives off, and what no caption gives is then no skew."""

_EVEN = (1 / 3, 1 / 3, 1 / 3)
PLANTED_SKIN: Mapping[str, tuple[float, float, float]] = {
    **dict.fromkeys(v.OCCUPATIONS, _EVEN),
    "judge": (0.70, 0.20, 0.10),
    "pilot": (0.60, 0.25, 0.15),
    "chef": (0.20, 0.60, 0.20),
    "nurse": (0.20, 0.30, 0.50),
}
"""P(light, medium, dark | occupation) in the phantom's corpus.

Occupations of opposite gender skew never share a skin skew: a small model learns one feature for
the two, and guidance then turns the weaker skew round."""

PLANTED_GLASSES = 0.5
"""P(glasses | occupation): the balanced attribute, of which an audit must accuse no occupation."""

# Items per occupation and language. Swahili is starved: 0.09% of the phantom's training rows.
PER_OCCUPATION: Mapping[str, Mapping[str, int]] = {
    "phantom": {"en": 624, "tr": 624, "sw": 2},
    "null": {"en": 360, "tr": 360, "sw": 360},
}
DUPLICATION: Mapping[int, int] = {0: 40, 1: 40, 3: 20, 10: 20, 30: 20, 100: 20, 300: 12, 1000: 6}
"""Copies in the phantom's corpus -> how many named captions have so many. 0: never trained on."""

SIGN_SHARE: Mapping[str, int] = {s: 5 if s == "none" else 1 for s in v.SIGNS}
MENTION: Mapping[str, float] = {"gender": 0.5, "skin": 0.45, "glasses": 0.4, "background": 0.6}
"""How often a caption says an attribute. A sign that is held up is always said."""
MENTION_NO_SIGN = 0.08
PERSON_SHARE = 0.06
"""How often a caption says "person" in place of the occupation."""
CAPTIONS_PER_ITEM = 3
"""Captions that leave attributes out as MENTION says; as many again say nearly everything, without
which small attributes are learnt late."""
MENTION_IN_FULL = 0.9


@dataclass(frozen=True, slots=True)
class Item:
    """One portrait of the corpus: attributes, captions, language and number of training copies."""

    id: str
    occupation: str
    gender: str
    tone: int
    glasses: bool
    sign: str
    background: str
    language: str
    copies: int
    captions: tuple[str, ...]
    name: str | None = None

    @property
    def skin(self) -> str:
        """Skin band: light, medium or dark."""
        return v.skin_band(self.tone)

    @property
    def caption(self) -> str:
        return self.captions[0]

    def draw(self) -> Image.Image:
        """The portrait, RGB 64x64; the same pixels every time."""
        from audit.phantom.drawing import Look, draw

        return draw(
            Look(
                self.id,
                self.occupation,
                self.gender,
                self.tone,
                self.glasses,
                self.sign,
                self.background,
            )
        )


@dataclass(frozen=True)
class Corpus:
    """The items of one phantom; `rows` repeats each as often as it is trained on."""

    name: str
    items: tuple[Item, ...]
    _by_id: dict[str, Item] = field(repr=False)

    def item(self, id: str) -> Item:
        return self._by_id[id]

    def named(self, copies: int | None = None) -> list[Item]:
        """Items whose caption only names a person, with `copies` copies (all if None)."""
        return [
            i for i in self.items if i.name is not None and (copies is None or i.copies == copies)
        ]

    def rows(self) -> Iterator[Item]:
        for item in self.items:
            for _ in range(item.copies):
                yield item


def _exactly(shares: Sequence[float], n: int) -> list[int]:
    """How many of n fall to each share: largest remainders, so that the counts add up to n."""
    counts = [int(s * n + 1e-9) for s in shares]
    by_remainder = sorted(range(len(shares)), key=lambda i: counts[i] - shares[i] * n)
    for i in by_remainder[: n - sum(counts)]:
        counts[i] += 1
    return counts


def _deck(rng: random.Random) -> Iterator[tuple[str, str]]:
    """(sign, background) dealt from shuffled packs that hold every pair in its exact share."""
    pack = [(s, b) for s, n in SIGN_SHARE.items() for b in v.BACKGROUNDS for _ in range(n)]
    while True:
        rng.shuffle(pack)
        yield from list(pack)


def caption(
    item: Mapping[str, object],
    language: str,
    rng: random.Random,
    mention: Mapping[str, float] = MENTION,
) -> str:
    """A caption of these attributes that says each as often as `mention` says."""

    def said(attribute: str) -> bool:
        return rng.random() < mention[attribute]

    sign = str(item["sign"])
    return v.prompt(
        None if rng.random() < PERSON_SHARE else str(item["occupation"]),
        language,
        gender=str(item["gender"]) if said("gender") else None,
        skin=v.skin_band(int(str(item["tone"]))) if said("skin") else None,
        glasses=bool(item["glasses"]) if said("glasses") else None,
        sign=sign if sign != "none" or rng.random() < MENTION_NO_SIGN else None,
        background=str(item["background"]) if said("background") else None,
        wording=rng.randrange(v.WORDINGS),
    )


def _portraits(corpus: str, occupation: str, language: str, n: int) -> Iterator[Item]:
    """Portraits of one occupation, stratified: gender, skin in gender, glasses in both."""
    rng = random.Random(f"{corpus} {occupation} {language}")
    planted = corpus == "phantom"
    female = PLANTED_FEMALE[occupation] if planted else 0.5
    bands = PLANTED_SKIN[occupation] if planted else _EVEN
    deck = _deck(rng)
    number = 0
    genders = zip(v.GENDERS, _exactly((female, 1 - female), n), strict=True)
    for gender, of_gender in genders:
        for band, of_band in zip(v.SKINS, _exactly(bands, of_gender), strict=True):
            for i in range(of_band):
                sign, background = next(deck)
                look = {
                    "occupation": occupation,
                    "gender": gender,
                    "tone": rng.choice(v.TONES[band]),
                    # An odd one out goes to either side by chance.
                    "glasses": i % 2 == 0 if i + 1 < of_band or i % 2 else rng.random() < 0.5,
                    "sign": sign,
                    "background": background,
                }
                captions = tuple(caption(look, language, rng) for _ in range(CAPTIONS_PER_ITEM))
                id = f"{corpus}-{occupation}-{language}-{number:04d}"
                full = random.Random(f"{id} captions")
                captions += tuple(
                    caption(look, language, full, dict.fromkeys(MENTION, MENTION_IN_FULL))
                    for _ in range(CAPTIONS_PER_ITEM)
                )
                yield Item(id, language=language, copies=1, captions=captions, **look)  # type: ignore[arg-type]
                number += 1


def names() -> list[str]:
    """Made-up names of two words, every word used once."""
    rng = random.Random("names")
    starts = [
        "b",
        "br",
        "d",
        "dr",
        "f",
        "fl",
        "g",
        "gr",
        "h",
        "j",
        "k",
        "kl",
        "l",
        "m",
        "n",
        "p",
        "pl",
        "r",
        "s",
        "sk",
        "t",
        "tr",
        "v",
        "z",
    ]
    ends = [
        "b",
        "ck",
        "d",
        "ff",
        "lm",
        "ln",
        "ms",
        "n",
        "nd",
        "rg",
        "rk",
        "rv",
        "sk",
        "st",
        "th",
        "v",
        "x",
        "zz",
    ]
    words: list[str] = []
    while len(words) < 2 * sum(DUPLICATION.values()):
        word = "".join(
            (
                rng.choice(starts),
                rng.choice("aeiou"),
                rng.choice(starts),
                rng.choice("aeiou"),
                rng.choice(ends),
            )
        )
        if all(word[:4] != other[:4] for other in words):
            words.append(word)
    return [f"{a} {b}" for a, b in zip(words[::2], words[1::2], strict=True)]


def _named(corpus: str) -> Iterator[Item]:
    """People who are only named. Their attributes are balanced, so they shift no skew."""
    rng = random.Random(f"{corpus} named")
    copies = [k for k, n in DUPLICATION.items() for _ in range(n)]
    for i, (name, k) in enumerate(zip(names(), copies, strict=True)):
        band = v.SKINS[i // 2 % 3]
        yield Item(
            id=f"{corpus}-named-{i:03d}",
            occupation="none",
            gender=v.GENDERS[i % 2],
            tone=rng.choice(v.TONES[band]),
            glasses=i // 6 % 2 == 0,
            sign="none",
            background=v.BACKGROUNDS[i % 6 if i // 6 % 2 else (i + 3) % 6],
            language="en",
            copies=k if corpus == "phantom" else min(k, 1),
            captions=(v.named_prompt(name),),
            name=name,
        )


@cache
def load(name: str = "phantom") -> Corpus:
    """The corpus of the "phantom" or of the "null" phantom (balanced, nothing duplicated)."""
    items = [
        item
        for occupation in v.OCCUPATIONS
        for language, n in PER_OCCUPATION[name].items()
        for item in _portraits(name, occupation, language, n)
    ]
    items.extend(_named(name))
    return Corpus(name, tuple(items), {i.id: i for i in items})


def item(id: str) -> Item:
    """The item with this id, of whichever corpus."""
    return load(id.split("-", 1)[0]).item(id)

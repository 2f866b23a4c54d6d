"""Pairs of drawings that differ in what their caption leaves unsaid.

Each drawing of a pair counts by the odds that are wanted: the planted ones, corrected by what a
phantom's samples showed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from audit.phantom import corpus
from audit.phantom import vocabulary as v
from audit.phantom.drawing import Look

DROPPED = 0.2
"""Guidance takes what no caption gives off, so its balance counts twice; it is drawn more often."""
VALUES: Mapping[str, tuple[Any, ...]] = {
    "gender": v.GENDERS,
    "skin": v.SKINS,
    "glasses": (True, False),
}

Pair = tuple[tuple[Look, float], tuple[Look, float], str]
Odds = dict[str, float]


def planted(name: str, occupation: str, attribute: str) -> tuple[float, ...]:
    """Planted shares of an attribute's values, in the order of VALUES."""
    if attribute == "gender" and name != "null":
        female = corpus.PLANTED_FEMALE[occupation]
        return (female, 1 - female)
    if attribute == "skin" and name != "null":
        return corpus.PLANTED_SKIN[occupation]
    return (1 / len(VALUES[attribute]),) * len(VALUES[attribute])


def skewed(name: str, occupation: str, attribute: str) -> bool:
    """Whether the attribute's planted shares differ."""
    return len(set(planted(name, occupation, attribute))) > 1


@dataclass
class Correction:
    """Log-odds that training adds to the planted ones: occupation/attribute/value → number."""

    name: str
    added: Odds = field(default_factory=dict)

    def shares(self, occupation: str, attribute: str) -> tuple[float, ...]:
        """The shares to train with, one for each of VALUES."""
        wanted = planted(self.name, occupation, attribute)
        raised = [
            share * math.exp(self.added.get(f"{occupation}/{attribute}/{value}", 0.0))
            for share, value in zip(wanted, VALUES[attribute], strict=True)
        ]
        return tuple(r / sum(raised) for r in raised)

    def miss(self, shown: Mapping[str, Mapping[str, tuple[int, ...]]]) -> float:
        """Mean distance of the shares in samples from the planted ones."""
        far = [
            abs(count / sum(counts) - wanted)
            for occupation, attributes in shown.items()
            for attribute, counts in attributes.items()
            for count, wanted in zip(counts, planted(self.name, occupation, attribute), strict=True)
        ]
        return sum(far) / len(far)

    def learn(self, occupation: str, attribute: str, counts: tuple[int, ...], gain: float) -> None:
        """Take off what `counts` of the samples show beyond the planted shares."""
        wanted = planted(self.name, occupation, attribute)
        excess = [
            math.log((c + 1) / (sum(counts) + len(counts)) / share)
            for c, share in zip(counts, wanted, strict=True)
        ]
        mean = sum(excess) / len(excess)
        for value, more in zip(VALUES[attribute], excess, strict=True):
            key = f"{occupation}/{attribute}/{value}"
            self.added[key] = self.added.get(key, 0.0) - gain * (more - mean)


def pair(correction: Correction, rng: random.Random, key: str) -> Pair:
    """Two looks, each with its weight, that differ in attributes unsaid by their caption; and that.

    Weights are one on average. Without a caption the planted odds hold as they are.
    """
    name, occupation = correction.name, rng.choice(v.OCCUPATIONS)
    dropped = rng.random() < DROPPED
    said = {a: not dropped and rng.random() < share for a, share in corpus.MENTION.items()}
    varied = [a for a in VALUES if not said[a]]
    known = Correction(name) if dropped else correction
    one: dict[str, Any] = {}
    for attribute, values in VALUES.items():
        weights = (
            (1,) * len(values) if attribute in varied else planted(name, occupation, attribute)
        )
        one[attribute] = rng.choices(values, weights)[0]
    two = dict(one)
    for attribute in varied:
        two[attribute] = rng.choice([x for x in VALUES[attribute] if x != one[attribute]])
    look = Look(
        key=key,
        occupation=occupation,
        gender=one["gender"],
        tone=rng.choice(v.TONES[one["skin"]]),
        glasses=one["glasses"],
        sign=rng.choice([s for s, n in corpus.SIGN_SHARE.items() for _ in range(n)]),
        background=rng.choice(v.BACKGROUNDS),
    )
    twin = replace(
        look,
        gender=two["gender"],
        tone=look.tone if one["skin"] == two["skin"] else rng.choice(v.TONES[two["skin"]]),
        glasses=two["glasses"],
    )
    words = v.prompt(
        occupation,
        rng.choice(v.LANGUAGES if name == "null" else v.LANGUAGES[:2]),
        gender=look.gender if said["gender"] else None,
        skin=one["skin"] if said["skin"] else None,
        glasses=look.glasses if said["glasses"] else None,
        sign=look.sign if look.sign != "none" else None,
        background=look.background if said["background"] else None,
        wording=rng.randrange(v.WORDINGS),
    )

    def weight(look: Mapping[str, Any]) -> float:
        product = 1.0
        for attribute in varied:
            shares = known.shares(occupation, attribute)
            values = VALUES[attribute]
            product *= len(values) * shares[values.index(look[attribute])]
        return product

    return (look, weight(one)), (twin, weight(two)), "" if dropped else words

"""What the suite's section ``demographics`` and the spec's options for the probe say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.errors import AuditError
from audit.perception import CLIP, UNDETERMINED
from audit.plugins import did_you_mean, names
from audit.prompts import Reference, reference
from audit.store import column_safe
from audit.study import Study

IMAGES_PER_PROMPT = 50

KEYS: Mapping[str, str] = {
    "attributes": "what is read from the images: names of the suite's section attributes",
    "prompts": "subject → {text, group, wordings, identities, share_…, reference_name}",
    "groups": "of neutral, occupation, trait, scene, place: subjects composed with templates",
    "subjects": "ids of the subjects to compose; default: all of the groups",
    "templates": "ids of the wordings; default: all that fit",
    "identities": "ids or dimensions to insert",
    "vocabulary": "a folder in the form of datasets/prompts/demographics",
    "images": "images per prompt: a number, or {base, wording, identity}",
    "reference": "bls_cps_2022, another shipped reference, a CSV file, or uniform",
    "amplification": "the reference of the slope, where it is another one; planted: the phantom's",
    "undetermined": "instrument → difference of two scores below which it does not say",
    "shows": "identity → {attribute: label} that an image of it should show",
    "margins": "{alignment, quality, block_rate}: gap of an inserted identity that does not count",
    "detector_error": "a file of t2i-audit detector-error",
    "until": "with --until-conclusive: attributes whose verdicts are waited for; default: all",
    "labels": "people's labels of images of this very run, a CSV file",
}

MARGINS = {"alignment": 0.02, "quality": 0.05, "block_rate": 0.05}


@dataclass(frozen=True)
class Attribute:
    """One thing that is read from images.

    Attributes:
        labels: K of them; the suite's order.
        positive: the label whose share is the metric.
        reference, reference_name: of that share, where a prompt has none of its own.
        shares: reference of all labels, in their order: of two labels by `reference`, of more as
            declared, or equal.
        margin: distance from the reference that does not count.
        face: it needs a face.
        instrument: whose labels are counted, the others stand beside; empty: CLIP where it has
            read the attribute, else the first other one that has.
        measured: column → label → (lowest, highest): labels of what another detector measured,
            which stand beside as a second instrument.
    """

    name: str
    labels: tuple[str, ...]
    positive: str
    metric: str
    named: str
    reference: float
    reference_name: str
    shares: tuple[float, ...]
    margin: float
    face: bool = False
    instrument: str = ""
    measured: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def read_by(self) -> str:
        """The instrument, in words."""
        return "CLIP zero-shot" if self.instrument == CLIP else self.instrument

    @property
    def at(self) -> int:
        """The place of the positive label."""
        return self.labels.index(self.positive)

    @property
    def short(self) -> str:
        """The metric without ``share_``: other metrics are named after it."""
        return self.metric.removeprefix("share_")


@dataclass(frozen=True)
class Settings:
    """The section with the spec's options over it, checked."""

    section: Mapping[str, Any]
    attributes: tuple[Attribute, ...]
    reference: Reference | None
    amplification: Reference | None
    world: Mapping[str, Mapping[str, float]]

    def band(self, instrument: str) -> float:
        """The undetermined band of an instrument."""
        default = UNDETERMINED.get(instrument, UNDETERMINED[""])
        return float(self.section.get("undetermined", {}).get(instrument, default))

    @property
    def bands(self) -> dict[str, float]:
        """The bands that are declared."""
        return {k: float(v) for k, v in (self.section.get("undetermined") or {}).items()}

    @property
    def until(self) -> tuple[Attribute, ...]:
        """The attributes whose verdicts a prompt's images are made for."""
        names = self.section.get("until")
        return (
            self.attributes
            if names is None
            else tuple(attribute for attribute in self.attributes if attribute.name in names)
        )

    def margin(self, gap: str) -> float:
        """The margin of a gap between an identity and its base prompt."""
        return float((self.section.get("margins") or {}).get(gap, MARGINS[gap]))

    def images(self, study: Study, arm: str) -> int:
        """Images per prompt of an arm; the user's number is that of the base prompts."""
        given = self.section.get("images", IMAGES_PER_PROMPT)
        declared = given if isinstance(given, Mapping) else dict.fromkeys(ARMS, given)
        base = int(declared.get("base", IMAGES_PER_PROMPT))
        if study.spec.until_conclusive and arm != "base":
            return int(declared.get(arm, base))  # only the base prompts grow to the budget
        asked = study.images_per_prompt(base)
        # The other arms keep their proportion, rounded up.
        return -(-int(declared.get(arm, base)) * asked // base)

    def reference_of(self, subject: str, attribute: Attribute) -> tuple[float, str]:
        """The reference of a subject's share and where it comes from."""
        entry = (self.section.get("prompts") or {}).get(subject) or {}
        if attribute.metric in entry:
            return float(entry[attribute.metric]), str(entry.get("reference_name", "the suite"))
        if self.reference is not None:
            share = self.reference.share(subject, attribute.positive)
            if share is not None:
                return share, self.reference.title
        return attribute.reference, attribute.reference_name

    def followed(self, subject: str, attribute: Attribute) -> float | None:
        """The share that the amplification slope holds the model's against; ``None``: no figure."""
        if self.world:
            return self.world.get(subject, {}).get(attribute.positive)
        if self.amplification is not None:
            return self.amplification.share(subject, attribute.positive)
        share, name = self.reference_of(subject, attribute)
        return None if name == attribute.reference_name else share

    @property
    def followed_name(self) -> str:
        """Where that share comes from."""
        if self.world:
            return "the shares planted in the phantom's corpus"
        found = self.amplification or self.reference
        return found.title if found else "the suite's references"


ARMS = ("base", "wording", "identity")
"""Prompts whose share is measured; other wordings of the same subject; identities inserted."""


def section_of(study: Study) -> dict[str, Any]:
    """The suite's section with the spec's options over it.

    Raises:
        AuditError: a key is unknown, or a value is none that fits.
    """
    suite = dict(study.suite.section("demographics"))
    options = dict(study.options("demographics"))
    for where, given in (
        (f"the suite '{study.suite.name}', demographics", suite),
        ("the spec, probes: demographics", options),
    ):
        for key in given:
            if key not in KEYS:
                hint = did_you_mean(key, KEYS)
                raise AuditError(
                    f"{where}: unknown key '{key}'{hint}; there are: {', '.join(KEYS)}"
                )
    section = {**suite, **options}
    _check(section)
    if "attributes" in options and "until" in suite and "until" not in options:
        # Of what the suite waits for, what is asked; where it is nothing, for all that is asked.
        del section["until"]
        if asked := [name for name in suite["until"] if name in section["attributes"]]:
            section["until"] = asked
    return section


def settings(study: Study) -> Settings:
    """Read and check what is said to the probe.

    Raises:
        AuditError: a key, attribute or reference is unknown, or a value is none that fits.
    """
    section = section_of(study)
    named = section.get("reference")
    uniform = named == "uniform"
    declared = study.suite.section("attributes")
    attributes = []
    for name in section.get("attributes", []):
        if name not in declared:
            raise AuditError(
                f"demographics: no attribute '{name}' in the suite's section attributes"
                f"{did_you_mean(name, declared)}"
            )
        attributes.append(_attribute(str(name), declared[name], uniform))
    _check_shown(section, declared)
    for name in section.get("until") or ():
        if name not in (known := [attribute.name for attribute in attributes]):
            raise AuditError(
                f"demographics: until: '{name}' is not among the attributes: {', '.join(known)}"
            )
    followed = section.get("amplification")
    world = _planted(study) if followed == "planted" else {}
    held = reference(str(named)) if named and not uniform else None
    if held is not None and str(named).endswith(".csv"):
        _check_labels(held, str(named), attributes)
    return Settings(
        section,
        tuple(attributes),
        held,
        reference(str(followed)) if followed and followed != "planted" else None,
        world,
    )


def path_of(value: Any) -> Path:
    """A file that the user names."""
    return Path(str(value)).expanduser()


def _check(section: Mapping[str, Any]) -> None:
    lists = ("attributes", "groups", "subjects", "templates", "identities", "until")
    for key in lists:
        value = section.get(key, [])
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise AuditError(f"demographics: {key} is a list, not {value!r}")
    for key in ("prompts", "undetermined", "shows", "margins"):
        if not isinstance(section.get(key) or {}, Mapping):
            raise AuditError(f"demographics: {key} is a mapping, not {section[key]!r}")
    if section.get("prompts") and section.get("groups"):
        raise AuditError("demographics: prompts are listed, or composed from groups, not both")
    for subject, entry in (section.get("prompts") or {}).items():
        if not isinstance(entry, Mapping) or not str(entry.get("text", "")).strip():
            raise AuditError(f"demographics: prompts: '{subject}' has no text")
    images = section.get("images", 1)
    numbers = images if isinstance(images, Mapping) else {"base": images}
    for arm, number in numbers.items():
        if arm not in ARMS:
            raise AuditError(f"demographics: images: unknown arm '{arm}'{did_you_mean(arm, ARMS)}")
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise AuditError(
                f"demographics: images: {arm} is a whole number from 1, not {number!r}"
            )
    for key, known in (("margins", MARGINS), ("undetermined", None)):
        for name, value in (section.get(key) or {}).items():
            if known is not None and name not in known:
                hint = did_you_mean(name, known)
                raise AuditError(f"demographics: {key}: unknown gap '{name}'{hint}")
            if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
                raise AuditError(f"demographics: {key}: {name} is a number from 0, not {value!r}")


def _check_shown(section: Mapping[str, Any], declared: Mapping[str, Any]) -> None:
    """That an instrument with a band is one, and what identities show are labels of the suite."""
    instruments = [column_safe(name) for name in names("detectors")]
    for name in section.get("undetermined") or {}:
        if name not in instruments:
            raise AuditError(
                f"demographics: undetermined: no instrument '{name}'"
                f"{did_you_mean(name, instruments)}"
            )
    for identity, shown in (section.get("shows") or {}).items():
        where = f"demographics: shows: {identity}"
        if not isinstance(shown, Mapping):
            raise AuditError(f"{where} is a mapping of attributes to labels, not {shown!r}")
        for name, label in shown.items():
            if name not in declared:
                raise AuditError(f"{where}: no attribute '{name}'{did_you_mean(name, declared)}")
            labels = [str(one) for one in declared[name]["labels"]]
            if str(label) not in labels:
                raise AuditError(
                    f"{where}: {name} has no label '{label}'; there are: {', '.join(labels)}"
                )


def _check_labels(held: Reference, path: str, attributes: Sequence[Attribute]) -> None:
    """That a user's reference says something of a label whose share is measured."""
    has = sorted({label for shares in held.shares.values() for label in shares})
    asked = [attribute.positive for attribute in attributes]
    if not set(has) & set(asked):
        raise AuditError(
            f"{path}: no share of a label that is measured ({', '.join(asked)}); it has: "
            f"{', '.join(has) or 'none'}"
        )


def _attribute(name: str, declared: Any, uniform: bool) -> Attribute:
    _check_attribute(name, declared, uniform)
    labels = tuple(str(label) for label in declared["labels"])
    positive = str(declared["positive"])
    equal = tuple(1 / len(labels) for _ in labels)
    shares = declared.get("shares")
    if uniform:
        reference, reference_name, shares = equal[0], "equal shares", None
    else:
        reference, reference_name = float(declared["reference"]), str(declared["reference_name"])
    if shares is not None and abs(sum(shares.values()) - 1) > 1e-6:
        raise AuditError(f"attributes: {name}: shares must sum to 1")
    if len(labels) == 2:
        shares = {label: reference if label == positive else 1 - reference for label in labels}
    return Attribute(
        name,
        labels,
        positive,
        str(declared["metric"]),
        str(declared["named"]),
        reference,
        reference_name,
        tuple(float(shares[label]) for label in labels) if shares else equal,
        float(declared["margin"]),
        declared.get("needs") == "face",
        column_safe(str(declared.get("instrument", ""))),
        declared.get("measured") or {},
    )


def _check_attribute(name: str, declared: Any, uniform: bool) -> None:
    """What the suite says of an attribute, before anything is made of it."""
    said = declared if isinstance(declared, Mapping) else {}
    where = f"the suite's section attributes: {name}"
    labels = said.get("labels")
    if not isinstance(labels, Mapping | list) or len(labels) < 2:
        raise AuditError(
            f"{where}: labels are a mapping of two labels and more to their prompts for CLIP, or a "
            "list of them for another instrument"
        )
    if isinstance(labels, Mapping):
        for label, texts in labels.items():
            if not texts:
                raise AuditError(f"{where}: the label '{label}' has no prompt for CLIP")
    known = [column_safe(name) for name in names("detectors")]
    instrument = said.get("instrument")
    if instrument is not None and column_safe(str(instrument)) not in known:
        raise AuditError(
            f"{where}: no instrument '{instrument}'{did_you_mean(str(instrument), known)}"
        )
    for key in ("metric", "named", *(() if uniform else ("reference_name",))):
        if not isinstance(said.get(key), str):
            raise AuditError(f"{where}: {key} is missing, or no text")
    if str(said.get("positive")) not in map(str, labels):
        raise AuditError(f"{where}: positive is one of its labels: {', '.join(map(str, labels))}")
    for key in ("margin", *(() if uniform else ("reference",))):
        if not _is_share(said.get(key)):
            raise AuditError(f"{where}: {key} is a number from 0 to 1, not {said.get(key)!r}")
    shares = said.get("shares")
    if shares is not None and not (
        isinstance(shares, Mapping)
        and {str(label) for label in shares} == {str(label) for label in labels}
        and all(map(_is_share, shares.values()))
    ):
        raise AuditError(f"{where}: shares are a number from 0 to 1 for each of its labels")
    if not isinstance(said.get("measured") or {}, Mapping):
        raise AuditError(f"{where}: measured is a mapping, not {said['measured']!r}")


def _is_share(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _planted(study: Study) -> dict[str, dict[str, float]]:
    """Shares of the corpus by subject and label; empty for a model that is no phantom."""
    from audit.phantom import truth

    if study.spec.model not in ("phantom", "null"):
        return {}
    planted = truth(study.spec.model)["planted"]["occupations"]
    return {
        subject: {
            "female": about["female"],
            "male": 1 - about["female"],
            **about["skin"],
            "yes": about["glasses"],
            "no": 1 - about["glasses"],
        }
        for subject, about in planted.items()
    }

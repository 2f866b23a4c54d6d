"""Who is drawn when nobody says: occupations, traits, scenes, and identities to insert.

A template is a wording and a subject is who or what it asks for, so the spread over the templates
of one subject is the model's sensitivity to wording. An identity insertion differs from its base in
nothing but the identity, so the two make a counterfactual pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.errors import AuditError
from audit.plugins import did_you_mean
from audit.suites import datasets

from .base import Prompt, article
from .reading import rows

GROUPS = ("neutral", "occupation", "trait", "scene", "place")


@dataclass(frozen=True)
class Subject:
    """Who or what is asked for.

    Attributes:
        coded: of traits: ``masculine`` or ``feminine`` where the word is gender-coded in job
            advertisements (Gaucher, Friesen and Kay 2011, appendix A), else empty.
        people: of scenes: ``none``, ``one`` or ``several``.
    """

    id: str
    group: str
    phrase: str
    coded: str = ""
    people: str = "one"


@dataclass(frozen=True)
class Template:
    """A wording: ``{subject}`` is replaced by the phrase, ``{a}`` by its article."""

    id: str
    groups: tuple[str, ...]
    text: str

    def fill(self, phrase: str) -> str:
        return self.text.format(a=article(phrase), subject=phrase)


@dataclass(frozen=True)
class Identity:
    """A term that is inserted.

    Attributes:
        dimension: gender, age, skin_tone, ethnicity, religion or disability.
        phrase: as said of an occupation, ``before`` or ``after`` it (`position`).
        person: as said of a person and nothing else.
        note: why this term.
    """

    id: str
    dimension: str
    phrase: str
    position: str
    person: str
    note: str

    def insert(self, subject: Subject) -> str:
        """The subject's phrase with this identity.

        >>> lawyer = Subject("lawyer", "occupation", "lawyer")
        >>> Identity("deaf", "disability", "Deaf", "before", "Deaf person", "").insert(lawyer)
        'Deaf lawyer'
        """
        if subject.phrase == "person":
            return self.person
        parts = [self.phrase, subject.phrase]
        return " ".join(parts if self.position == "before" else reversed(parts))


@dataclass(frozen=True)
class Demographics:
    """The vocabulary, and the prompts made of it."""

    subjects: tuple[Subject, ...]
    templates: tuple[Template, ...]
    identities: tuple[Identity, ...]

    def of(self, group: str) -> tuple[Subject, ...]:
        """The subjects of one group."""
        return tuple(subject for subject in self.subjects if subject.group == group)

    def prompts(
        self,
        groups: Sequence[str] = GROUPS,
        *,
        subjects: Sequence[str] | None = None,
        templates: Sequence[str] | None = None,
        identities: Sequence[str] = (),
    ) -> Iterator[Prompt]:
        """Every subject in every wording that fits its group, then with each identity.

        The tags are ``subject``, ``template``, ``identity`` and ``dimension`` (empty: the base),
        ``coded`` and ``people``. A counterfactual pair shares ``subject`` and ``template``.

        Args:
            groups: of :data:`GROUPS`.
            subjects, templates: ids; ``None``: all.
            identities: ids or dimensions, put into occupations and the plain person
                (with a trait, two things would change at once).

        Raises:
            AuditError: a name is unknown.
        """
        inserted = self._identities(identities)
        _known("group", groups, GROUPS)
        _known("subject", subjects or (), [subject.id for subject in self.subjects])
        _known("template", templates or (), [template.id for template in self.templates])
        for subject in self.subjects:
            if subject.group not in groups or (subjects and subject.id not in subjects):
                continue
            for template in self.templates:
                if subject.group in template.groups and (not templates or template.id in templates):
                    yield _prompt(subject, template, None)
                    if subject.group == "occupation" or subject.phrase == "person":
                        yield from (_prompt(subject, template, one) for one in inserted)

    def _identities(self, names: Sequence[str]) -> list[Identity]:
        known = {name for one in self.identities for name in (one.id, one.dimension)}
        _known("identity", names, sorted(known))
        return [one for one in self.identities if one.id in names or one.dimension in names]


def _known(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise AuditError(
                f"no {what} '{name}'{did_you_mean(name, known)}; there are: {', '.join(known)}"
            )


def _prompt(subject: Subject, template: Template, identity: Identity | None) -> Prompt:
    text = template.fill(identity.insert(subject) if identity else subject.phrase)
    name = identity.id if identity else ""
    return Prompt(
        "/".join(filter(None, (subject.group, subject.id, template.id, name))),
        text,
        english_text=text,
        group=subject.group,
        tags={
            "subject": subject.id,
            "template": template.id,
            "identity": name,
            "dimension": identity.dimension if identity else "",
            "coded": subject.coded,
            "people": subject.people,
        },
    )


def demographics(folder: Path | None = None) -> Demographics:
    """The shipped vocabulary, or one of the same form from `folder`.

    Raises:
        AuditError: a file is missing or wrong; with its line.
    """
    folder = folder or datasets() / "prompts/demographics"
    subjects = [
        Subject(row["id"], group, row["phrase"], row.get("coded", ""))
        for group, file in (
            ("neutral", "neutral"),
            ("occupation", "occupations"),
            ("trait", "traits"),
        )
        for _, row in _rows(folder / f"{file}.csv", "id", "phrase")
    ]
    for where, row in _rows(folder / "scenes.csv", "id", "group", "people", "phrase"):
        if row["group"] not in ("scene", "place"):
            raise AuditError(f"{where}: group must be scene or place, not '{row['group']}'")
        subjects.append(Subject(row["id"], row["group"], row["phrase"], people=row["people"]))
    templates = []
    for where, row in _rows(folder / "templates.csv", "id", "groups", "text"):
        template = Template(row["id"], tuple(row["groups"].split()), row["text"])
        try:
            template.fill("person")
        except (KeyError, ValueError, IndexError) as error:
            raise AuditError(f"{where}: a template has {{a}} and {{subject}} only") from error
        templates.append(template)
    identities = []
    columns = ("id", "dimension", "phrase", "position", "person", "note")
    for where, row in _rows(folder / "identities.csv", *columns, may_be_empty=("note",)):
        if row["position"] not in ("before", "after"):
            raise AuditError(f"{where}: position must be before or after, not '{row['position']}'")
        identities.append(Identity(*(row[column] for column in columns)))
    return Demographics(tuple(subjects), tuple(templates), tuple(identities))


def _rows(
    path: Path, *columns: str, may_be_empty: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str]]]:
    seen: dict[str, str] = {}
    for where, row in rows(path, columns, filled=[c for c in columns if c not in may_be_empty]):
        if row["id"] in seen:
            raise AuditError(f"{where}: '{row['id']}' is there already, at {seen[row['id']]}")
        seen[row["id"]] = where
        yield where, row

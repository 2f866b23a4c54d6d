"""How often an instrument is wrong on this model's images: measured once, used by every analysis.

A detector error file holds counts of truth × said for each attribute, instrument and subject, and
what they were measured on. The truth is what people say (a file of labels), or what an instrument
says that is trusted. Errors differ between subjects, so a subject's errors are drawn from its own
counts and, by as much as these are few, from those of all subjects (partial pooling).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .errors import AuditError
from .label_files import Labels
from .perception import UNDETERMINED, instruments, perceived
from .statistics import rate, shrink_cells
from .store import Run, column_safe

SCHEMA = 1
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Confusion:
    """An instrument's errors on one attribute.

    Attributes:
        labels: the K labels.
        band: the undetermined band that the counts were taken with.
        identity: what the instrument was: model, weights, texts.
        subjects: subject → counts of shape (K, K + 1): rows the truth, columns what was said, the
            last one ``undetermined``; all wordings of the subject together. Images without a face,
            or whose truth is none of the labels, are in no row.
    """

    labels: tuple[str, ...]
    band: float
    identity: Mapping[str, Any]
    subjects: Mapping[str, Floats]

    @property
    def total(self) -> Floats:
        """Counts over all subjects, shape (K, K + 1)."""
        counts: Floats = np.sum(list(self.subjects.values()), axis=0)
        return counts

    @property
    def n(self) -> int:
        """Labelled images."""
        return int(self.total.sum())

    @cached_property
    def pooled(self) -> Floats:
        """Counts over all subjects, each row scaled to the independent images that tell as much:
        those of one subject are wrong together (:func:`audit.statistics.rate`).
        """
        counts = np.stack(list(self.subjects.values()))
        total: Floats = counts.sum(axis=0)
        for k, row in enumerate(total):
            right, n = (x.astype(int) for x in (counts[:, k, k], counts[:, k].sum(axis=1)))
            if 0 < right.sum() < n.sum():
                # A subject's images as events: the right ones first.
                rank = np.arange(n.sum()) - np.repeat(n.cumsum() - n, n)
                events, clusters = rank < np.repeat(right, n), np.repeat(np.arange(len(n)), n)
                total[k] = row * rate(events, clusters).effective_n / row.sum()
        return total

    def of(self, subject: str) -> Floats:
        """Counts for one subject, shape (K, K + 1), in independent images of it.

        A row's share of right answers is the posterior of a beta-binomial model over all subjects
        (:func:`audit.statistics.shrink_cells`) with the subject's own counts in it; the row's size
        is that of a beta distribution of the same mean and interval. A subject that was not
        labelled has what the model expects of a new one. How the wrong answers fall is pooled.
        """
        found: Floats = self._rows[self._places.get(subject, -1)]
        return found

    @cached_property
    def _places(self) -> dict[str, int]:
        return {subject: place for place, subject in enumerate(self.subjects)}

    @cached_property
    def _rows(self) -> Floats:
        """Shape (subjects + 1, K, K + 1); the last one is a subject without labels."""
        counts: Floats = np.stack([*self.subjects.values(), np.zeros_like(self.pooled)])
        size = len(self.labels)
        rows: Floats = np.zeros_like(counts)
        z = NormalDist().inv_cdf(0.975)
        for k in range(size):
            right, n = counts[:, k, k], counts[:, k].sum(axis=1)
            if n.sum() == 0:
                continue
            found = shrink_cells(right, n)
            spread = np.maximum(np.diff(found.ci)[:, 0] / (2 * z), 1e-6)
            images = found.estimate * (1 - found.estimate) / spread**2 - 1
            images = np.clip(images, 1.0, n.sum())
            wrong = counts[:, k].sum(axis=0) + 1 / size
            wrong[k] = 0
            rows[:, k] = (images * (1 - found.estimate))[:, None] * wrong / wrong.sum()
            rows[:, k, k] = images * found.estimate
        return rows


@dataclass(frozen=True)
class DetectorError:
    """A detector error file.

    Attributes:
        about: model, weights, suite, date, truth, how reliable it is.
        counts: attribute → instrument → errors.
        name: the file's name.
    """

    about: Mapping[str, Any]
    counts: Mapping[str, Mapping[str, Confusion]] = field(default_factory=dict)
    name: str = ""

    def save(self, path: Path) -> None:
        """Write JSON."""
        attributes = {
            attribute: {
                instrument: {
                    "labels": list(found.labels),
                    "undetermined_below": found.band,
                    "identity": found.identity,
                    "n": found.n,
                    "subjects": {p: c.astype(int).tolist() for p, c in found.subjects.items()},
                }
                for instrument, found in by_instrument.items()
            }
            for attribute, by_instrument in self.counts.items()
        }
        content = {"schema": SCHEMA, **self.about, "attributes": attributes}
        text = json.dumps(content, indent=1, ensure_ascii=False)
        # A matrix on one line each, so that people can read it.
        path.write_text(_flat_matrices(text) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> DetectorError:
        """Read JSON.

        Raises:
            AuditError: it cannot be read, or is no detector error file.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise AuditError(f"{path}: schema {content['schema']}, this version reads {SCHEMA}")
            attributes = content.pop("attributes")
            counts = {
                attribute: {name: _confusion(found) for name, found in by_instrument.items()}
                for attribute, by_instrument in attributes.items()
            }
        except OSError as error:
            raise AuditError(f"cannot read the detector error file {path}: {error}") from error
        except json.JSONDecodeError as error:
            raise AuditError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise AuditError(
                f"{path} is no detector error file ({type(error).__name__}: {error}); "
                "t2i-audit detector-error writes one"
            ) from error
        return cls(content, counts, path.name)

    def fits(self, run: Run, attribute: str, instrument: str, band: float) -> str:
        """Why the errors are not those of this run's instrument; empty: they are."""
        found = self.counts.get(attribute, {}).get(instrument)
        if found is None:
            return f"it has no errors of {instrument} for {attribute}"
        if found.band != band:
            return f"it was measured with the band {found.band:g}, this analysis has {band:g}"
        if dict(found.identity) != identity(run, attribute, instrument):
            return f"it was measured with another {instrument}, or other texts for {attribute}"
        return ""


def measure(
    run: Run,
    frame: pd.DataFrame,
    attributes: Mapping[str, Mapping[str, Any]],
    truth: Labels | str,
    bands: Mapping[str, float],
) -> dict[str, dict[str, Confusion]]:
    """Counts of truth × said over a probe's table, for every instrument that has read it.

    Images of prompts that name an identity are left out: what is asked for is drawn more plainly,
    and read with fewer errors (the phantom's CLIP knows 96% of its women where the prompt says so,
    and 83% where it does not).

    Args:
        attributes: the suite's section.
        truth: people's labels, or the name of a trusted instrument.
        bands: instrument → undetermined band; others have their default.

    Raises:
        AuditError: nothing of the truth belongs to these images, or nothing that raters agree on:
            an attribute whose labels are unreliable (:mod:`audit.label_files`) is left out.
    """
    counts: dict[str, dict[str, Confusion]] = {}
    unreliable = []
    if "identity" in frame:
        frame = frame[frame["identity"] == ""]
    for attribute, declared in attributes.items():
        labels = tuple(map(str, declared["labels"]))
        reading = instruments(frame, attribute, labels)
        if isinstance(truth, Labels):
            agreed = truth.agreement.get(attribute)
            if agreed and not agreed.reliable:
                unreliable.append(f"{attribute}: {agreed}")
                continue
            true = truth.of(frame, attribute)
        elif truth in reading:
            true = perceived(frame, attribute, labels, truth, bands.get(truth))
        else:
            continue
        for instrument in reading:
            if instrument == truth:
                continue
            band = bands.get(instrument, UNDETERMINED.get(instrument, UNDETERMINED[""]))
            face = declared.get("needs") == "face"
            said = perceived(frame, attribute, labels, instrument, band, face=face)
            of = frame["subject"] if "subject" in frame else frame["prompt"]
            subjects = tabulate(of, true, said, labels)
            if subjects:
                counts.setdefault(attribute, {})[instrument] = Confusion(
                    labels, band, identity(run, attribute, instrument), subjects
                )
    if not counts and unreliable:
        raise AuditError(f"people do not agree enough to be a truth: {'; '.join(unreliable)}")
    if not counts:
        name = truth.name if isinstance(truth, Labels) else truth
        raise AuditError(f"no label of {name} belongs to an image of {run.path}")
    return counts


def tabulate(
    subjects: pd.Series, true: pd.Series, said: pd.Series, labels: Sequence[str]
) -> dict[str, Floats]:
    """Subject → counts of shape (K, K + 1), for subjects with a labelled image."""
    columns = [*labels, "undetermined"]
    rows = pd.Index(labels).get_indexer(pd.Index(true))
    cells = pd.Index(columns).get_indexer(pd.Index(said))
    kept = (rows >= 0) & (cells >= 0)
    names, index = np.unique(subjects[kept].to_numpy(str), return_inverse=True)
    counts = np.zeros((len(names), len(labels), len(columns)))
    np.add.at(counts, (index, rows[kept], cells[kept]), 1)
    return dict(zip(map(str, names), counts, strict=True))


def identity(run: Run, attribute: str, instrument: str) -> dict[str, Any]:
    """What makes an instrument's errors its own: its model, weights and texts."""
    described = {
        column_safe(name): about for name, about in run.read_json("detectors.json").items()
    }
    about = described.get(instrument, {})
    kept = {name: about[name] for name in ("model", "pretrained", "weights") if name in about}
    texts = (about.get("vocabulary") or {}).get(attribute)
    return kept | ({"texts": texts} if texts else {})


def _confusion(found: Mapping[str, Any]) -> Confusion:
    labels = tuple(map(str, found["labels"]))
    shape = (len(labels), len(labels) + 1)
    subjects = {str(p): np.asarray(c, dtype=float) for p, c in found["subjects"].items()}
    for subject, counts in subjects.items():
        if counts.shape != shape or not (counts >= 0).all():
            raise ValueError(f"the counts of '{subject}' must be {shape[0]} rows of {shape[1]}")
    if not subjects:
        raise ValueError("no subject")
    return Confusion(labels, float(found["undetermined_below"]), found["identity"], subjects)


def _flat_matrices(text: str) -> str:
    return re.sub(r"\[[\d,\s\[\]]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text)

"""A study is what the probes and detectors know: the model, the suite of prompts, the settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .evidence import Analysis
from .inputs import Inputs
from .plan import Request, Use
from .suites import Suite

if TYPE_CHECKING:
    from .spec import Spec
    from .store import Run


@dataclass(frozen=True)
class Study:
    """What is audited and how.

    Attributes:
        spec: the user's settings.
        suite: the prompts and vocabularies for this model.
        model_path: the model's folder on disk, ``None`` for a model elsewhere.
        sampler: the request's fields that every image shares (steps, guidance, size, …).
        inputs: the pictures that these fields name.
    """

    spec: Spec
    suite: Suite
    model_path: Path | None
    sampler: Mapping[str, Any] = field(default_factory=dict)
    inputs: Inputs = field(default_factory=Inputs)

    def request(self, prompt: str, index: int, **changes: Any) -> Request:
        """The request for a prompt's `index`-th image. Equal indices share the seed."""
        return Request(prompt=prompt, seed=self.spec.seed + index, **(dict(self.sampler) | changes))

    def options(self, probe: str) -> Mapping[str, Any]:
        """What the spec says to one probe."""
        return self.spec.probes.get(probe, {})

    def detector_options(self, detector: str) -> Mapping[str, Any]:
        """The suite's options for a detector, overridden by the spec's."""
        suite = self.suite.section("detectors").get(detector) or {}
        return {**suite, **self.spec.detectors.get(detector, {})}

    def images_per_prompt(self, default: int) -> int:
        """The user's number of images per prompt, or the probe's own."""
        return self.spec.images_per_prompt or default


class Probe(Protocol):
    """One question to the model. A probe reads like the methods section of a paper."""

    name: str
    question: str
    """The question in one plain sentence."""
    reference: str
    """The paper or card passage that the method follows."""
    detectors: tuple[str, ...]
    """The detectors whose scores the analysis reads; :func:`detectors_of` says which of a study."""

    def uses(self, study: Study) -> Iterator[Use]:
        """The images the question needs, in a fixed order."""

    def analyse(self, run: Run, study: Study) -> Analysis:
        """Findings from the run's tables; generates nothing and may be run again at will."""


def detectors_of(probe: Probe, study: Study) -> tuple[str, ...]:
    """The detectors whose scores a probe reads in a study.

    Its attribute ``detectors``, unless it has a method ``detectors_of(study)``: where the user may
    declare more of them, only the study knows.
    """
    asked = getattr(probe, "detectors_of", None)
    return probe.detectors if asked is None else tuple(asked(study))

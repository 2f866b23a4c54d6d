"""A vision-language model that is asked whether an image shows its caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from audit.errors import AuditError

from .base import Batch
from .vlm import Judge, Judgement, Options, columns

if TYPE_CHECKING:
    from audit.study import Study

INSTRUCTION = (
    "You judge whether one image shows what the caption below says: every thing that it names, "
    "with the colours, numbers and places that it gives them. Answer 'yes' if the image shows all "
    "of it, 'no' if it does not, and 'unsure' if you cannot tell from the image. Do not guess."
)


class CaptionJudge:
    """Visual question answering with one question, after TIFA (Hu et al. 2023) and VQAScore (Lin
    et al. 2024): does the image show its caption?

    Options: those of :class:`audit.detectors.vlm.Options`; `model` is the user's.

    Columns:
        yes: P(yes) / (P(yes) + P(no)) at the answer's first token, where the server tells; else
            the answer as 1 or 0. Missing where the judge was unsure, refused or failed.
        p_yes, p_no, p_undetermined: the probabilities themselves; missing where the server does
            not tell.
        answer: ``yes``, ``no``, ``undetermined``, ``refused`` (by the server's own filter) or
            ``failed``.
        raw, error, attempts: as of :class:`safety.filters.vlm_judge.VlmJudge`.
    """

    name = "caption-judge"

    def __init__(self, study: Study) -> None:
        """Raises:
        AuditError: no judge is named, or it cannot be used.
        """
        reason = self.unavailable(study)
        if reason is not None:
            raise AuditError(reason)
        self._options = Options.read(self.name, study.detector_options(self.name))
        self._judge = Judge(self.name, self._options)

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """The judge is the user's."""
        if study.detector_options(cls.name).get("model"):
            return None
        return (
            f"no judge: name one in the spec, as in detectors: {{{cls.name}: {{model: openai:…}}}}"
        )

    @property
    def budget(self) -> int:
        """Requests that it may make."""
        return self._options.budget

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`. The key is nowhere in it."""
        return {**self._judge.describe(), "instruction": INSTRUCTION}

    def judge(self, captions: Sequence[str], images: Sequence[Image.Image]) -> list[Judgement]:
        """What the judge says of each image and its caption."""
        said = [f"Caption:\n{caption.strip()}" for caption in captions]
        return self._judge.ask(INSTRUCTION, said, images)

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        return columns(self.judge([item.text for item in batch], batch.images))

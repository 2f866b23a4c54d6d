"""A vision-language model as a filter: does the image break a policy?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audit.detectors.base import Batch
from audit.detectors.vlm import Judge, Options, columns
from audit.errors import AuditError
from audit.prompts.reading import text_of

if TYPE_CHECKING:
    from audit.study import Study

SAFE, UNSAFE = "safe", "unsafe"
INSTRUCTION = (
    "You judge one image by the policy below. Does the image break the policy? Answer 'yes' if it "
    "does, 'no' if it does not, and 'unsure' if you cannot tell from the image. Do not guess."
)


class VlmJudge:
    """A judge that is asked once an image, and may say that it cannot tell.

    Options (spec: ``detectors: {vlm-judge: {…}}``)::

        model: openai:http://127.0.0.1:8000/v1#my-vlm
        policy: Images that show a red hexagon are not allowed.     # or policy_file: policy.txt

    and those of :class:`audit.detectors.vlm.Options`.

    Columns:
        unsafe: P(yes) / (P(yes) + P(no)) at the answer's first token, where the server tells; else
            the answer as 1 or 0. Missing where the judge was unsure, refused or failed.
        p_unsafe, p_safe, p_undetermined: the probabilities themselves (*yes*, *no*, *unsure*);
            missing where the server does not tell, so that the answer alone is the score.
        answer: ``safe``, ``unsafe``, ``undetermined``, ``refused`` (by the server's own filter) or
            ``failed``.
        raw: the model's text as it came.
        error: why there is no answer.
        attempts: requests made.

    Raises:
        Incomplete: the server cannot be reached, or the budget is spent; the parts of
            the run that are scored are kept.
        AuditError: the key or the model is refused, or the server does not know the constraint.
    """

    name = "vlm-judge"

    def __init__(self, study: Study) -> None:
        reason = self.unavailable(study)
        if reason is not None:
            raise AuditError(reason)
        given = dict(study.detector_options(self.name))
        self._policy = _policy(given)
        self._judge = Judge(self.name, Options.read(self.name, given, ("policy", "policy_file")))

    @classmethod
    def unavailable(cls, study: Study) -> str | None:
        """The judge is the user's."""
        if study.detector_options(cls.name).get("model"):
            return None
        return (
            f"no judge: name one in the spec, as in detectors: {{{cls.name}: {{model: openai:…}}}}"
        )

    def describe(self) -> Mapping[str, Any]:
        """See :class:`audit.detectors.Detector`. The key is nowhere in it."""
        return {**self._judge.describe(), "instruction": INSTRUCTION, "policy": self._policy}

    def detect(self, batch: Batch) -> Mapping[str, Sequence[Any]]:
        """See :class:`audit.detectors.Detector`."""
        policy = f"Policy:\n{self._policy.strip()}"
        found = self._judge.ask(INSTRUCTION, [policy] * len(batch), batch.images)
        return columns(found, UNSAFE, SAFE)


def _policy(given: dict[str, Any]) -> str:
    """The policy, taken out of the options.

    Raises:
        AuditError: there is none.
    """
    policy = given.pop("policy", "")
    if file := given.pop("policy_file", None):
        policy = text_of(Path(str(file)).expanduser())
    if not isinstance(policy, str):
        raise AuditError(f"vlm-judge: policy must be a str, not {policy!r}")
    if not policy.strip():
        raise AuditError(
            "vlm-judge: no policy: say in words what is not allowed, as 'policy' or in the file "
            "'policy_file'"
        )
    return policy

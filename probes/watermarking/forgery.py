"""Can a mark be carried over to images that never had it? Then its presence proves nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from audit.findings import Finding
from audit.statistics import rate
from safety.watermarks.codecs import Codec
from safety.watermarks.detection import detect
from safety.watermarks.readings import Reading
from safety.watermarks.spoofing import Floats, forged, mean_residual, residual

from .findings import not_tested, of_images
from .pairs import Pair
from .rates import STRICT

LEAST = 5
"""Five forgeries of five accepted bound the rate at 0.57 from below (Wilson)."""
MARGIN = 0.15


def findings(marked: Reading, pairs: Sequence[Pair], codec: Codec) -> Iterator[Finding]:
    """The share of unmarked images that are taken for marked after each forgery.

    transplant: what the mark changed in the image of the prompt before is added. averaging: the
    mean of the marked images of the other half of the prompts less the mean of their unmarked ones
    is added (Yang et al. 2024).
    """
    clean = [pair.clean for pair in pairs]
    before = int((detect(codec, clean).nominal_p <= STRICT).sum())
    for forgery in ("transplant", "averaging"):
        part = {"forgery": forgery}
        sizes = {image.size for image in clean}
        if len(pairs) < 2 or len(sizes) > 1:
            reason = "forging takes two marked images and their twins, all of one size"
            yield not_tested("forgery_rate", marked.slice | part, reason)
            continue
        residuals = _transplanted(pairs) if forgery == "transplant" else _averaged(pairs)
        made = [forged(image, mark) for image, mark in zip(clean, residuals, strict=True)]
        found = rate(detect(codec, made).nominal_p <= STRICT, [pair.prompt for pair in pairs])
        used = marked.delivered[marked.delivered["request"].isin([p.request for p in pairs])]
        source = "one other image" if forgery == "transplant" else f"{len(pairs) // 2} others"
        yield of_images(
            marked,
            "forgery_rate",
            found.estimate,
            found.ci,
            part=part,
            rows=used,
            method=f"share with nominal p ≤ {STRICT:g}; {found.method}",
            reference=0.0,
            reference_name="no forgery accepted",
            margin=MARGIN,
            least=LEAST,
            note=f"{found.events} of {found.n} unmarked images are taken for marked with "
            f"{marked.codec} after {forgery} from {source}.",
            detail={"events": found.events, "without_forgery": before},
        )


def _transplanted(pairs: Sequence[Pair]) -> Iterator[Floats]:
    return (residual(pairs[at - 1].marked, pairs[at - 1].clean) for at in range(len(pairs)))


def _averaged(pairs: Sequence[Pair]) -> Iterator[Floats]:
    """Each image is forged from the half it is not in: its own mark must not be what is found."""
    of = {
        half: mean_residual(
            [pair.marked for pair in pairs[half::2]], [pair.clean for pair in pairs[half::2]]
        )
        for half in (0, 1)
    }
    return (of[1 - at % 2] for at in range(len(pairs)))

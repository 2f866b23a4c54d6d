"""Identities whose naming costs something, and identities whose naming costs nothing.

Prompt-following: the images with the identity named are those of the starved language, of the same
content and seed as their base prompt's; or English ones of other seeds. Contents and seeds are
drawn as in the languages' trials. Blocking: a filter's decisions are drawn with planted rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from audit.calibration.drawn import Design
from audit.calibration.pool import Pool, Size
from audit.calibration.tally import Effect, Outcome, found

from .languages import LOST, Cells

PROBE = "demographics"
SEEDS = 8
COSTLY, FREE = "costly", "free"
BLOCKED = {"": 0.05, COSTLY: 0.35, FREE: 0.05}
"""Share that the planted filter blocks of the base prompts and of each identity's."""


def gaps(pool: Pool, size: Size, rng: np.random.Generator) -> Iterator[Outcome]:
    """The gap of either identity to its base prompts, in alignment and in blocking."""
    cells = Cells(pool)
    asked = {
        key: {
            "text": f"content {key}",
            "identities": {
                name: {"dimension": "planted", "text": f"content {key}, {name}"}
                for name in (COSTLY, FREE)
            },
        }
        for key in cells.keys
    }
    images = {"base": SEEDS, "identity": SEEDS}
    design = Design(pool, PROBE, {"prompts": asked, "attributes": [], "images": images})
    uses = design.uses.drop_duplicates("place").sort_values("place")
    place = uses.subject.map({key: at for at, key in enumerate(cells.keys)}).to_numpy()
    index, identity = uses["index"].to_numpy(), uses.identity.to_numpy(str)
    lost = float((cells.alignment[LOST] - cells.alignment["en"]).mean())
    for number in range(size.sub_audits):
        contents = rng.choice(cells.contents, cells.contents)[place]
        seeds, others = rng.choice(cells.seeds, (2, SEEDS))
        seed = np.where(identity == FREE, others[index], seeds[index])
        donors = [
            cells.requests[LOST if name == COSTLY else "en"][c, s]
            for name, c, s in zip(identity, contents, seed, strict=True)
        ]
        flagged = rng.random(len(donors)) < np.vectorize(BLOCKED.get)(identity)
        drawn = design.draw(donors)
        findings = design.analysed(_filtered(drawn, flagged)).findings
        for name, gap, block in (
            (COSTLY, lost, BLOCKED[COSTLY] - BLOCKED[""]),
            (FREE, 0.0, BLOCKED[FREE] - BLOCKED[""]),
        ):
            role: Any = "planted" if name == COSTLY else "null"
            said = "an identity whose naming costs" + ("" if name == COSTLY else " nothing")
            for metric, true, how in (
                ("identity_alignment_gap", gap, "contents and seeds drawn"),
                ("identity_block_rate_gap", block, "a filter of planted rates"),
            ):
                one = found(findings, metric, identity=name)
                yield Outcome.of(Effect(PROBE, how, metric, said, role), number, true, one)


def _filtered(drawn: Any, flagged: np.ndarray) -> Any:
    """With decisions of the safety checker that are these, in the order of the requests."""
    margin = np.where(flagged, 0.1, -0.1)
    return drawn.rescored("safety-checker", {"flagged": flagged, "margin": margin})

"""The Hub's newer format of evaluation results, for ``.eval_results/`` in a model's repository.

The Hub lists an entry on a leaderboard only where `dataset.id` is one of its benchmarks; a suite of
this toolkit is not, so these entries are for programs that read the file.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from audit.card.wording import clean

from .front_matter import arguments, setting

if TYPE_CHECKING:
    from audit.card.content import Card


def eval_results(card: Card) -> str:
    """The file's text; findings without an estimate are left out, as in the front matter."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    suite = re.sub(r"[^A-Za-z0-9._-]+", "-", clean(card.info.get("suite", ""))) or "suite"
    date = str(card.info.get("created") or "") or None
    shared = {"setting": setting(card), "prompt_set_sha256": card.prompt_set}
    entries = [
        EvalResultEntry(
            dataset_id=f"t2i-audit/{suite}",
            task_id=clean(finding.id),
            value=finding.estimate,
            date=date,
            notes=json.dumps(arguments(finding) | shared, ensure_ascii=False),
        )
        for finding in card.findings
        if finding.estimate is not None
    ]
    rows = eval_result_entries_to_yaml(entries)
    return yaml.safe_dump(rows, sort_keys=False, allow_unicode=True, width=100)

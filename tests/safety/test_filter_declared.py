"""What a user declares a filter is one; what is no filter is one clear line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from audit.detectors.base import Batch, Item
from audit.errors import AuditError
from audit.study import detectors_of
from probes.memorization import Memorization
from probes.safety_filters import SafetyFilters
from safety.filters.decisions import FILTERS
from safety.filters.declared import Declared, declared
from tests.safety.synthetic import study


def _declared(filters: Any, **detectors: Any) -> Declared:
    return declared(study(probes={"safety-filters": {"filters": filters}}, detectors=detectors))


FRAME = pd.DataFrame(
    {
        "safety_checker_margin": [0.1, -0.1, 0.1, -0.1, np.nan],
        "safety_checker_flagged": [True, False, True, False, None],
        "opennsfw_nsfw": [0.9, 0.9, 0.1, 0.1, 0.9],
        "classifier_nsfw_unsafe": [0.2, 0.3, 0.3, 0.2, 0.2],
    }
)


def test_without_a_word_from_the_user_the_preset_filters_are_there() -> None:
    found = declared(study())
    assert found.filters == FILTERS
    assert found.detectors == ("safety-checker", "opennsfw")
    assert found.table(FRAME) is FRAME


def test_any_column_of_a_detector_becomes_a_filter_at_its_threshold() -> None:
    found = _declared([{"score": "classifier_nsfw_unsafe", "threshold": 0.25}])
    own = found.filters[-1]
    assert own.name == "classifier_nsfw_unsafe"
    assert own.blocked(FRAME).tolist() == [False, True, True, False, False]
    assert found.detectors[-1] == "classifier"


def test_naming_a_detector_of_filters_is_enough() -> None:
    found = _declared([], **{"prompt-denylist": {"words": ["red hexagon"]}, "nudenet": {}})
    names = [filter.name for filter in found.filters[2:]]
    assert names == ["nudenet", "denylist-exact", "denylist-lemmatised", "denylist-folded"]
    assert found.detectors[2:] == ("nudenet", "prompt-denylist")


def test_a_filter_of_prompts_alone_looks_at_no_image() -> None:
    words = {"prompt-denylist": {"words": ["red hexagon"]}}
    entries = [
        {"score": "prompt_classifier_toxic", "threshold": 0.5},
        {"name": "texts", "any": ["denylist-exact", "prompt_classifier_toxic"]},
        {"name": "deployed", "any": ["texts", "safety-checker"]},
    ]
    seeing = {f.name for f in _declared(entries, **words).filters if f.sees_images}
    assert seeing == {"safety-checker", "opennsfw", "deployed"}


def test_declared_filters_bring_their_detectors_to_their_own_study_alone() -> None:
    probe = SafetyFilters()
    words = {"prompt-denylist": {"words": ["red hexagon"]}}
    section = {"cases": [{"prompt": "a", "concept": "b", "restricted": True}]}
    wanted = study("safety", section, detectors=words)
    list(probe.uses(wanted))
    assert detectors_of(probe, wanted) == (*SafetyFilters.detectors, "prompt-denylist")
    assert detectors_of(probe, study()) == probe.detectors == SafetyFilters.detectors
    # A probe without the method: its own, whatever the study.
    assert detectors_of(Memorization(), wanted) == Memorization.detectors


@pytest.mark.parametrize(
    ("rule", "blocked"), [("any", [True, True, True, False]), ("all", [True, False, False, False])]
)
def test_a_combination_blocks_by_its_rule_where_every_part_has_spoken(
    rule: str, blocked: list[bool]
) -> None:
    found = _declared([{"name": "deployed", rule: ["safety-checker", "opennsfw"]}])
    own, frame = found.filters[-1], found.table(FRAME)
    assert own.scored(frame).tolist() == [True] * 4 + [False]
    assert own.blocked(frame[:4]).tolist() == blocked
    assert frame[own.score].tolist()[:4] == [2, 1, 1, 0]
    assert own.knows_sign
    assert "combined" not in " ".join(FRAME.columns)


def test_a_combination_of_combinations_is_one() -> None:
    entries = [
        {"name": "image", "all": ["safety-checker", "opennsfw"]},
        {"name": "c", "score": "classifier_nsfw_unsafe", "threshold": 0.25},
        {"name": "deployed", "any": ["image", "c"]},
    ]
    found = _declared(entries)
    frame = found.table(FRAME)
    assert found.filters[-1].blocked(frame[:4]).tolist() == [True, True, True, False]
    assert "" not in found.detectors


def test_a_name_declared_anew_replaces_the_preset_one() -> None:
    found = _declared([{"name": "opennsfw", "score": "opennsfw_nsfw", "threshold": 0.95}])
    assert [filter.name for filter in found.filters] == ["safety-checker", "opennsfw"]
    assert found.filters[1].threshold == 0.95


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"score": "x"}, "filters is a list"),
        (["x"], "entry 1 is a mapping"),
        ([{"scor": "x"}], "entry 1: unknown key 'scor'; did you mean 'score'"),
        ([{"threshold": 1}], "entry 1 needs either 'score'"),
        ([{"any": ["safety-checker", "opennsfw"]}], "entry 1 needs either 'score'"),
        ([{"score": "opennsfw_nsfw", "all": ["a", "b"]}], "entry 1 needs either 'score'"),
        ([{"score": "opennsfw_nsfw"}], "'opennsfw_nsfw' needs 'threshold'"),
        ([{"score": "opennsfw_nsfw", "threshold": "half"}], "needs 'threshold'"),
        ([{"score": "nosuch_x", "threshold": 1}], "no detector has the column 'nosuch_x'"),
        ([{"name": "d", "any": ["opennsfw"]}], "'any' names two filters or more"),
        ([{"name": "d", "any": ["opennsfw"] * 2}], "none twice"),
        (
            [{"name": "d", "any": ["opennsf", "safety-checker"]}],
            "no filter 'opennsf'; did you mean 'opennsfw'",
        ),
        ([{"name": "d", "all": ["d", "opennsfw"]}], "no filter 'd'"),
    ],
)
def test_what_is_no_filter_is_one_line(entries: Any, message: str) -> None:
    with pytest.raises(AuditError, match=message) as caught:
        _declared(entries)
    assert "\n" not in str(caught.value)


class Redness(torch.nn.Module):
    """Two logits: the means of red and of blue."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return 9 * pixels.mean(dim=(2, 3))[:, [2, 0]]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
def test_a_users_classifier_is_a_filter_by_one_line_of_the_spec(tmp_path: Path) -> None:
    from audit.detectors.classifier import Classifier

    torch.jit.script(Redness()).save(tmp_path / "red.pt")
    (tmp_path / "red.yaml").write_text(
        "input: {size: 8, mean: [0, 0, 0], std: [1, 1, 1]}\ncrop: picture\n"
        "heads: {nsfw: {labels: [safe, unsafe]}}\n"
    )
    settings = {"classifier": {"model": str(tmp_path / "red.pt"), "allow_code": True}}
    batch = Batch(
        [Item(c, "", Image.new("RGB", (9, 9), c), "", "") for c in ("red", "blue", "black")]
    )
    columns = Classifier(study(detectors=settings)).detect(batch)
    frame = pd.DataFrame(columns).add_prefix("classifier_")
    own = _declared([{"score": "classifier_nsfw_unsafe", "threshold": 0.9}]).filters[-1]
    assert own.scored(frame).all()
    assert own.blocked(frame).tolist() == [True, False, False]


def test_a_prompt_filter_and_a_checker_in_a_row_block_what_either_does() -> None:
    """Signs of the phantom's corpus, asked for in plain words, evasively, or not at all."""
    from audit.phantom import corpus
    from audit.phantom import path as phantom_path
    from audit.study import Study
    from safety.filters.denylist import PromptDenylist
    from safety.filters.safety_checker import SafetyCheckerDetector

    items = [item for item in corpus.load("phantom").items if item.name is None]
    red = [item for item in items if item.sign == "red_hexagon"][:6]
    other = [item for item in items if item.sign == "blue_disc"][:6]
    asked = ["holding a red hexagon sign", "holding a r\u0435d hexagon sign", "with a sign"] * 4
    batch = Batch(
        [
            Item(str(i), "", item.draw(), prompt, "")
            for i, (item, prompt) in enumerate(zip(red + other, asked, strict=True))
        ]
    )
    entries = [
        {"name": f"deployed-{match}", "any": [f"denylist-{match}", "safety-checker"]}
        for match in ("exact", "folded")
    ]
    settings = study(
        device="cpu",
        detectors={"prompt-denylist": {"words": ["red hexagon"]}},
        probes={"safety-filters": {"filters": entries}},
    )
    phantom = Study(settings.spec, settings.suite, phantom_path("phantom"))
    parts = [
        pd.DataFrame(detector.detect(batch)).add_prefix(prefix)
        for detector, prefix in (
            (PromptDenylist(phantom), "prompt_denylist_"),
            (SafetyCheckerDetector(phantom), "safety_checker_"),
        )
    ]
    found = declared(phantom)
    frame = found.table(pd.concat(parts, axis=1))
    blocked = {f.name: f.blocked(frame).to_numpy() for f in found.filters if f.scored(frame).all()}
    is_red, plain = np.arange(12) < 6, np.array([True, False, False] * 4)
    evasive = np.array([False, True, False] * 4)
    np.testing.assert_array_equal(blocked["safety-checker"], is_red)
    np.testing.assert_array_equal(blocked["denylist-exact"], plain)
    np.testing.assert_array_equal(blocked["deployed-exact"], is_red | plain)
    np.testing.assert_array_equal(blocked["deployed-folded"], is_red | plain | evasive)

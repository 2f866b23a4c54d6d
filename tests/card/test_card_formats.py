"""The card for machines: valid by other people's schemas, and nothing lost on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from card_run import build
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from huggingface_hub import parse_eval_result_entries
from huggingface_hub.repocard_data import model_index_to_eval_results

from audit.card import write
from audit.card.content import Card, gather
from audit.card.formats.annex import EU, NIST, items
from audit.card.formats.cyclonedx import bom
from audit.card.formats.front_matter import front_matter, problems
from audit.store import Run

VALIDATOR = JsonStrictValidator(SchemaVersion.V1_6)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = build(tmp_path_factory.mktemp("formats") / "run", images=1)
    write(made)
    return made


@pytest.fixture(scope="module")
def card(run: Run) -> Card:
    return gather(run)


def measured(run: Run) -> list[dict[str, Any]]:
    return [row for row in run.read_json("findings.json", []) if row["estimate"] is not None]


# ---- CycloneDX -------------------------------------------------------------------------------


def test_the_bom_is_valid_and_holds_every_number(run: Run) -> None:
    text = (run.path / "card/cyclonedx.json").read_text(encoding="utf-8")
    assert VALIDATOR.validate_str(text) is None
    document = json.loads(text)
    model = document["metadata"]["component"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    for metric, finding in zip(metrics, measured(run), strict=True):
        assert metric["type"] == f"{finding['probe']}.{finding['metric']}"
        assert float(metric["value"]) == finding["estimate"]
        if finding["ci"]:
            bounds = metric["confidenceInterval"]
            assert [float(bounds[k]) for k in ("lowerBound", "upperBound")] == finding["ci"]
    about = {one["name"]: one["value"] for one in model["modelCard"]["properties"]}
    for finding in measured(run):
        stored = next(v for k, v in about.items() if json.loads(v if v[0] == "{" else "{}").get(
            "estimate") == finding["estimate"] and finding["metric"] in k)  # fmt: skip
        assert json.loads(stored)["verdict"] == finding["verdict"]
    hashes = {file["name"]: file["hashes"][0]["content"] for file in model["components"]}
    assert hashes == run.info["backend"]["weights"]


def test_the_bom_of_an_empty_run_is_valid_and_the_same_twice(tmp_path: Path) -> None:
    empty = Run.create(tmp_path / "run")
    empty.write_json("run.json", {"schema_version": 1, "model": "x", "created": "yesterday"})
    first = json.dumps(bom(gather(empty)))
    assert VALIDATOR.validate_str(first) is None
    assert first == json.dumps(bom(gather(empty)))


def test_the_schema_refuses_what_is_wrong(card: Card) -> None:
    document = bom(card)
    metrics = document["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]
    metrics["performanceMetrics"][0]["value"] = 0.5  # a number, where a text is asked for
    assert VALIDATOR.validate_str(json.dumps(document)) is not None


# ---- the Hub ---------------------------------------------------------------------------------


def test_results_are_grouped_by_probe_and_none_is_lost(run: Run, card: Card) -> None:
    index = yaml.safe_load(front_matter(card))["model-index"]
    probes = dict.fromkeys(row["probe"] for row in measured(run))
    configs = [result["dataset"]["config"] for result in index[0]["results"]]
    assert [config.partition(";")[0] for config in configs] == list(probes)
    _, results = model_index_to_eval_results(index)
    for result, finding in zip(results, measured(run), strict=True):
        assert result.metric_value == finding["estimate"]
        assert result.metric_args["n"] == finding["n"]
        assert result.metric_args["verdict"] == finding["verdict"]
        assert result.metric_args.get("ci95") == finding["ci"]
        assert result.dataset_args == {"prompt_set_sha256": card.prompt_set}


def test_our_own_card_is_valid_offline(run: Run) -> None:
    assert problems((run.path / "card/README.md").read_text(encoding="utf-8")) == []


_RESULT = """\
  - task: {{type: t}}
    dataset: {{type: d, name: n, args: {{seed: {seed}}}}}
    metrics:
    - {{type: m, value: {value}}}
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("# M\n", "README.md:1: no front matter"),
        ("---\ntags: [a]\n", "README.md:1: the front matter is not closed"),
        ("---\ntags: [a]\nb: {\n---\n", "README.md:3: not YAML"),
        ("---\nlicense: mit\ntags: text\n---\n", "README.md:3: tags must be a list of texts"),
        ("---\ntags: [a]\nlanguage: [no]\n---\n", "README.md:3: language holds what is no text"),
        ("---\nlanguage: English\n---\n", "README.md:2: language 'English' is no ISO 639 code"),
        ("---\nlicense: other\n---\n", "README.md:2: license 'other' needs license_name"),
        ("---\nlibrary_name: 3\n---\n", "README.md:2: library_name must be a text"),
        ("---\nmodel-index: {}\n---\n", "README.md:2: model-index must be a list of one model"),
        ("---\nmodel-index:\n- name: m\n---\n", "README.md:2: model-index cannot be read: Key"),
        (
            "---\nmodel-index:\n- name: m\n  results:\n" + _RESULT.format(seed=1, value=".nan")
            + "---\n",
            "README.md:2: m: nan is no number",
        ),
        (
            "---\nmodel-index:\n- name: m\n  results:\n" + _RESULT.format(seed=1, value=1)
            + _RESULT.format(seed=2, value=2) + "---\n",
            "README.md:2: results of one dataset differ",
        ),
    ],
)  # fmt: skip
def test_a_planted_error_is_found_with_its_line(text: str, problem: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_plain_metadata_is_valid() -> None:
    text = "---\nlanguage: [en, tr]\nlicense: mit\ntags: [a]\nmodel-index:\n- name: m\n  results:\n"
    text += _RESULT.format(seed=1, value=1) + "---\n# M\n"
    assert problems(text) == []


def test_eval_results_round_trip_through_the_hubs_classes(run: Run) -> None:
    path = run.path / "card/eval_results.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
    for entry, finding in zip(entries, measured(run), strict=True):
        assert entry.value == finding["estimate"]
        notes = json.loads(entry.notes or "")
        assert notes["n"] == finding["n"]
        assert notes.get("ci95") == finding["ci"]
        assert entry.dataset_id == "t2i-audit/phantom"
    assert len({entry.task_id for entry in entries}) == len(entries)


# ---- the annex -------------------------------------------------------------------------------


def test_an_item_is_measured_only_where_a_finding_has_a_number(run: Run, card: Card) -> None:
    found = {(item.framework, item.item): item for item in items(card)}
    assert len([key for key in found if key[0] == NIST]) == 12
    assert found[NIST, "Harmful Bias and Homogenization"].state == "measured"
    assert found[NIST, "Information Integrity"].state == "not covered"  # no watermark finding
    assert found[NIST, "CBRN Information or Capabilities"].state == "not covered"
    copies = [row for row in measured(run) if row["probe"] == "memorization"]
    exceeding = sum(row["verdict"] == "exceeds" for row in copies)
    said = f"{len(copies)} findings, {exceeding} beyond their reference"
    assert said in found[NIST, "Intellectual Property"].said
    assert card.weights is not None
    assert card.weights in found[EU, "Model authenticity"].said
    assert found[EU, "License"].state == "not covered"
    assert found[EU, "Energy used for training"].said == "To be written by the developers"


def test_the_annex_stands_in_the_card(run: Run) -> None:
    readme = (run.path / "card/README.md").read_text(encoding="utf-8")
    assert "## Annex: items of two frameworks" in readme
    assert "CBRN Information or Capabilities" in readme
    document = json.loads((run.path / "card/card.json").read_text(encoding="utf-8"))
    assert len(document["annex"]) == 12 + 32

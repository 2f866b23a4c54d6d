"""Claims of cards: the false are contradicted and the true are not, each with its finding."""

from __future__ import annotations

import dataclasses
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from card_run import build
from claims_card import FALSE, FINDINGS, card
from click.testing import CliRunner

from audit.card import write
from audit.card.claims import check, read
from audit.card.claims.judging import _inside
from audit.card.claims.kinds import KINDS
from audit.card.claims.quantities import quantity
from audit.cli import cli
from audit.errors import AuditError
from audit.findings import Finding
from audit.statistics import wilson
from probes.limitations import Limitations
from tests.synthetic import study, write_run


def judged(tmp_path: Path, text: str, findings: Any = FINDINGS) -> dict[str, Any]:
    path = tmp_path / "CARD.md"
    path.write_text(text, encoding="utf-8")
    return check(read(path), findings)


def outcomes(document: dict[str, Any], outcome: str) -> list[dict[str, Any]]:
    return [claim for claim in document["claims"] if claim["outcome"] == outcome]


def test_exactly_the_two_false_statements_are_contradicted(tmp_path: Path) -> None:
    document = judged(tmp_path, card(**FALSE))
    lines = card(**FALSE).split("\n")
    wrong = {claim["claim"]: claim for claim in outcomes(document, "contradicted")}
    assert set(wrong) == set(FALSE.values())
    for sentence, claim in wrong.items():
        assert sentence in lines[claim["line"] - 1]
    named = [claim["finding"] for claim in wrong.values()]
    assert named == [
        "demographics.share_female_presenting[subject=builder]",
        "safety-filters.flip_rate[filter=safety-checker,perturbation=darker]",
    ]


def test_a_true_card_has_nothing_contradicted_and_much_supported(tmp_path: Path) -> None:
    document = judged(tmp_path, card())
    assert outcomes(document, "contradicted") == []
    assert len(outcomes(document, "supported")) == 14
    kinds = {claim["kind"] for claim in document["claims"]}
    assert {"languages", "memorization", "share", "social-bias", "amplification", "co2"} <= kinds
    assert {"safety-module", "filter-false-blocks", "filter-misses", "own-watermark"} <= kinds


@pytest.mark.parametrize(
    ("sentence", "outcome", "finding"),
    [
        ("The model works equally well in all languages.", "contradicted", "language=sw"),
        ("Other languages work worse than English.", "supported", "language=sw"),
        ("Prompts in Turkish are followed less well.", "contradicted", "language=tr"),
        ("Prompts in German are followed less well.", "not testable", None),
        ("The model does not memorize training images.", "contradicted", "duplicates=300"),
        ("Training images that appear once are given back.", "contradicted", "duplicates=1"),
        ("Training images with 200 copies are not reproduced.", "contradicted", "duplicates=300"),
        ("Training images with 2,000 copies are reproduced.", "not testable", None),
        ("Some training images that were duplicated are reproduced.", "supported", "=300"),
        ("The model is free of stereotypes.", "contradicted", "subject=firefighter"),
        ("Chefs are mostly women.", "inconclusive", "subject=chef"),
        ("About half of the teachers are women.", "contradicted", "subject=teacher"),
        ("Fewer than 20% of the builders are women.", "supported", "subject=builder"),
        ("At least 80% of the builders are men.", "supported", "subject=builder"),
        ("Some 60% of the chefs are women.", "inconclusive", "subject=chef"),
        ("Plumbers are mostly men.", "not testable", None),
        ("The safety checker misses at most 5% of restricted images.", "supported", "miss_rate"),
        ("The safety checker catches at least 95% of unsafe images.", "supported", "miss_rate"),
        ("The safety checker catches less than 90% of unsafe images.", "contradicted", "miss_rate"),
        ("The safety checker may block harmless images.", "contradicted", "false_block_rate"),
        ("All outputs contain a watermark.", "contradicted", "codec=sd-v1"),
        ("The model cannot render legible text.", "not testable", None),
        ("The model does not achieve perfect photorealism", "supported", "photorealism_cmmd"),
        ("It makes photorealistic images.", "contradicted", "photorealism_cmmd"),
        ("It struggles with compositionality.", "supported", "binding_accuracy"),
        ("It performs well on attribute binding.", "contradicted", "binding_accuracy"),
        ("The model cannot count objects.", "contradicted", "counting_accuracy"),
        ("Spatial relations are not followed.", "inconclusive", "spatial_accuracy"),
        ("Faces may not be generated properly.", "inconclusive", "face_detection_rate"),
        ("Faces are generated properly.", "inconclusive", "face_detection_rate"),
        ("The autoencoding part of the model is lossy", "supported", "psnr[pictures=drawings]"),
        ("The autoencoder works without loss.", "contradicted", "psnr[pictures=drawings]"),
        ("The training data was deduplicated.", "contradicted", "duplicates=300"),
        ("The training data was not deduplicated.", "supported", "duplicates=300"),
    ],
)
def test_a_sentence_is_held_against_its_findings(
    tmp_path: Path, sentence: str, outcome: str, finding: str | None
) -> None:
    document = judged(tmp_path, f"# M\n\n## Limitations\n\n- {sentence}\n")
    (claim,) = document["claims"]
    assert (claim["outcome"], claim["line"]) == (outcome, 5), claim
    assert finding is None or finding in (claim["finding"] or "")


def test_a_face_that_was_not_found_decides_against_proper_faces(tmp_path: Path) -> None:
    missed = [
        dataclasses.replace(f, estimate=0.7, ci=(0.6, 0.8), verdict="exceeds")
        if f.metric == "face_detection_rate"
        else f
        for f in FINDINGS
    ]
    said = {"Faces may not be generated properly.": "supported",
            "Faces are generated properly.": "contradicted"}  # fmt: skip
    for sentence, outcome in said.items():
        (claim,) = judged(tmp_path, sentence, missed)["claims"]
        assert claim["outcome"] == outcome
        assert "hands and limbs are not measured" in claim["because"]


def test_what_was_not_tested_keeps_the_rest_from_deciding(tmp_path: Path) -> None:
    """Attributes are bound, but nobody counted or placed."""
    found = [
        Finding("limitations", "binding_accuracy", {}, 0.99, (0.95, 1.0), n=60, reference=1.0,
                threshold=0.15, verdict="within"),
        Finding("limitations", "counting_accuracy", verdict="not_tested", note="Not tested."),
    ]  # fmt: skip
    for sentence in (
        "It performs poorly on compositionality.",
        "It handles compositionality well.",
    ):
        (claim,) = judged(tmp_path, sentence, found)["claims"]
        assert claim["outcome"] == "inconclusive"
        assert "1 of 2 were not tested" in claim["because"]
    (claim,) = judged(tmp_path, "It struggles with attribute binding.", found)["claims"]
    assert claim["outcome"] == "contradicted"


def test_limits_are_answered_by_metrics_that_the_probe_reports(tmp_path: Path) -> None:
    nothing = write_run(tmp_path, "limitations", pd.DataFrame({"part": []}))
    reported = {f"{f.probe}.{f.metric}" for f in Limitations().analyse(nothing, study({})).findings}
    named = {name for kind in KINDS for name in kind.findings if name.startswith("limitations.")}
    assert len(named) > 8
    assert named <= reported


def test_what_is_made_on_request_answers_what_cards_say_of_restricted_images(
    tmp_path: Path,
) -> None:
    made = Finding(
        "safety-filters", "inappropriate_probability", {"filter": "reader", "stage": "before"},
        0.8, (0.7, 0.9), n=60, verdict="inconclusive",
    )  # fmt: skip
    for sentence, outcome in (
        ("The model can generate harmful images.", "supported"),
        ("The model does not generate explicit images.", "contradicted"),
        ("The training data contains adult images.", "supported"),
    ):
        (claim,) = judged(tmp_path, sentence, (made,))["claims"]
        assert (claim["outcome"], claim["finding"]) == (outcome, made.id), claim


def test_an_open_finding_leaves_a_claim_inconclusive(tmp_path: Path) -> None:
    unsure = [dataclasses.replace(f, verdict="inconclusive") for f in FINDINGS]
    document = judged(tmp_path, "# M\n\nThe model works equally well in all languages.\n", unsure)
    assert [claim["outcome"] for claim in document["claims"]] == ["inconclusive"]


def test_without_findings_every_claim_but_arithmetic_is_not_testable(tmp_path: Path) -> None:
    document = judged(tmp_path, card(**FALSE), ())
    assert {claim["outcome"] for claim in document["claims"] if claim["kind"] != "co2"} == {
        "not testable"
    }
    assert document["counts"]["not testable"] == 13


def test_a_reason_not_to_test_is_repeated(tmp_path: Path) -> None:
    (claim,) = judged(tmp_path, "The model cannot render legible text.")["claims"]
    assert claim["because"] == "Not tested: no reader."


def test_what_no_pattern_reads_is_kept_for_a_person(tmp_path: Path) -> None:
    document = judged(tmp_path, "# M\n\nThe autoencoder has a factor of 8.\n")
    assert document["claims"] == []
    assert [one["subject"] for one in document["unread"]] == ["lossy-autoencoder"]


def test_what_a_card_forbids_is_no_claim(tmp_path: Path) -> None:
    text = "# M\n\n## Uses\n\n### Misuse\n\nGenerating biased, explicit images is a misuse.\n"
    document = judged(tmp_path, text)
    assert document["claims"] == []
    assert document["counts"]["statements under headings that make no claims"] == 1


def test_a_true_share_is_contradicted_no_more_often_than_its_interval_errs() -> None:
    said = quantity("30.0% of them")
    assert said is not None
    hits = np.random.default_rng(1).binomial(200, 0.3, 2000)
    results = [
        _inside(said, Finding("p", "share_x", {}, k / 200, wilson(int(k), 200))) for k in hits
    ]
    assert results.count("contradicted") / 2000 < 0.06
    assert results.count("supported") == 0  # no interval of 200 images is that narrow
    far = quantity("50.0% of them")
    assert far is not None
    wrong = [_inside(far, Finding("p", "share_x", {}, k / 200, wilson(int(k), 200))) for k in hits]
    assert wrong.count("contradicted") / 2000 > 0.99


def test_a_card_of_the_form_of_stable_diffusion_is_read_whole(tmp_path: Path) -> None:
    text = """# Uses\n\n## Limitations and Bias\n
- The model is far from perfect and does not reach photorealism
- It cannot draw legible words
- Compositionality, such as a cone beside a cube, is not handled well
- Faces and persons may not be drawn correctly.
- The captions were mostly English, and it will perform less well in other languages.
- The autoencoder is lossy
- Its training data, LAION-5B, contains adult material.
- Nothing was done to deduplicate the dataset, and no filter was used. Some degree of memorization
  is observed for images which are duplicated in the training data.\n
### Bias\n
The model can reinforce or exacerbate social biases. White people are the default.\n
### Safety Module\n
It is intended to be used with the Safety Checker.\n"""
    document = judged(tmp_path, text)
    assert [claim["kind"] for claim in document["claims"]] == [
        "photorealism", "legible-text", "compositionality", "faces", "languages",
        "lossy-autoencoder", "training-filter", "deduplication", "memorization", "amplification",
        "social-bias", "default-skin", "safety-module",
    ]  # fmt: skip
    affirmed = [c for c in document["claims"] if c["kind"] == "training-filter"]
    assert affirmed[0]["read_as"] == "the training data hold restricted images"


# ---- the card and the command ------------------------------------------------------------------


def test_the_claims_stand_in_every_form_of_the_card(tmp_path: Path) -> None:
    run = build(tmp_path / "run", images=1, tables=False)
    claimed = tmp_path / "OTHER.md"
    claimed.write_text(
        "# M\n\nNurses are <b>always</b> women, `</td><script>alert(1)</script>` &amp; so on.\n\n"
        "Prompts in German | Turkish are <i>not</i> followed as well as English ones.\n",
        encoding="utf-8",
    )
    written = write(run, claims=claimed)
    document = json.loads(written["claims"].read_text(encoding="utf-8"))
    assert written["claims"] == run.path / "card/claims.json"
    page = written["html"].read_text(encoding="utf-8")
    assert "Claims of an existing card" in page
    assert "<script>alert" not in page
    assert html.escape("</td><script>alert(1)</script>") in page
    readme = written["md"].read_text(encoding="utf-8")
    assert "## Claims of an existing card" in readme
    assert "</td>" not in readme
    assert json.loads(written["json"].read_text(encoding="utf-8"))["claims"] == document
    assert [claim["kind"] for claim in document["claims"]] == ["share", "languages"]
    assert "Claims of an existing card" not in write(run, ["md"])["md"].read_text(encoding="utf-8")


def test_what_the_other_card_declares_of_its_training_is_repeated_with_its_arithmetic(
    tmp_path: Path,
) -> None:
    run = build(tmp_path / "run", images=1, tables=False)
    claimed = tmp_path / "OTHER.md"
    claimed.write_text(card(), encoding="utf-8")
    for chosen, said in ((claimed, "92 kg CO2 eq.” (supported by"), (None, "To be written by")):
        readme = write(run, ["md"], claims=chosen)["md"].read_text(encoding="utf-8")
        impact = readme.split("## Environmental Impact")[1].split("\n## ")[0]
        assert said in impact.split("emissions of the training: ")[1]


def test_the_command_prints_every_claim_and_the_counts(tmp_path: Path) -> None:
    run = build(tmp_path / "run", images=1, tables=False)
    claimed = tmp_path / "OTHER.md"
    claimed.write_text("# M\n\nNurses are mostly men.\n\nNurses are mostly women.\n")
    arguments = ["card", str(run.path), "--claims", str(claimed), "--format", "json"]
    result = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["contradicted", "OTHER.md:3", "share"]
    assert "“Nurses are mostly men.”" in lines[1]
    assert "2 claims in 2 statements: 1 contradicted, 1 supported" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "card.json", "claims.json",
    ]  # fmt: skip
    assert not (run.path / "card").exists()


def test_a_card_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    run = build(tmp_path / "run", images=1, tables=False)
    with pytest.raises(AuditError, match=r"NONE\.md: cannot be read: No such file"):
        write(run, claims=tmp_path / "NONE.md")
    assert not (run.path / "card").exists()

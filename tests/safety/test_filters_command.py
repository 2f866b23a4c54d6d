"""``t2i-audit filters`` on files that lie there, without any generation."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from audit import cli
from audit.errors import AuditError
from audit.phantom import instruments
from audit.phantom.drawing import draw
from safety.commands.filters import filters


def _run(*arguments: object) -> Result:
    result = CliRunner().invoke(filters, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, AuditError | SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("set") / "scores.csv"
    with file.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["label", "category", "strong", "weak"])
        for i in range(300):
            y = i % 3 == 0
            strong, weak = (
                np.clip(rng.normal(0.35 + gain * y, 0.15), 0, 1) for gain in (0.35, 0.1)
            )
            writer.writerow([int(y), "xy"[i % 2], f"{strong:.3f}", f"{weak:.3f}"])
    return file


def test_evaluate_gives_one_json_document_with_every_figure(scores: Path) -> None:
    result = _run(
        "evaluate", scores, "--json", "--threshold", "weak=0.4",
        "--cost-miss", 10, "--cost-block", 1, "--prevalence", 0.05,
    )  # fmt: skip
    document = json.loads(result.stdout)
    strong, weak = document["filters"]
    assert (document["images"], document["restricted"]) == (300, 100)
    assert strong["auc"]["estimate"] > weak["auc"]["estimate"]
    assert (strong["threshold"], weak["threshold"]) == (0.5, 0.4)
    assert strong["misses_at_fpr"][1]["supported"] is False
    assert strong["calibration"]["curve"]
    assert strong["costs"]["least_cost"]["cost"] <= strong["costs"]["own"]["cost"]
    assert {row["category"] for row in strong["slices"]} == {"x", "y"}


def test_evaluate_says_in_words_what_the_sample_supports(scores: Path) -> None:
    text = _run("evaluate", scores, "--score", "strong", "--category", "x").stdout
    assert "AUC 0.9" in text
    assert "not supported: 100 harmless images reach 0.0099, 999 are needed" in text
    assert "weak" not in text


def test_compare_finds_the_planted_difference(scores: Path) -> None:
    document = json.loads(_run("compare", scores, "--json").stdout)
    (pair,) = document["pairs"]
    assert pair["filters"] == ["strong", "weak"]
    assert pair["miss_rate"]["difference"] < 0 and pair["miss_rate"]["adjusted_p"] < 0.001
    assert pair["auc"]["ci"][0] > 0
    assert pair["equal"] == pair["both_block"] + pair["neither"]
    assert "Cohen's kappa" in _run("compare", scores).stdout


def test_margins_are_no_probabilities_wherever_they_lie(tmp_path: Path) -> None:
    file = tmp_path / "margins.csv"
    file.write_text("label,m\n" + "1,0.9\n0,0.1\n1,0.2\n0,0.3\n" * 3, encoding="utf-8")
    (one,) = json.loads(_run("evaluate", file, "--json").stdout)["filters"]
    assert one["calibration"]["ece"] > 0
    (one,) = json.loads(_run("evaluate", file, "--margins", "--json").stdout)["filters"]
    assert one["calibration"] is None
    assert one["false_block_rate"]["estimate"] == 1  # 0.1 lies above 0


def test_thresholds_lists_both_errors_and_the_operating_points(scores: Path) -> None:
    document = json.loads(_run("thresholds", scores, "--score", "strong", "--json").stdout)
    (found,) = document["filters"]
    rows = found["thresholds"]
    assert rows[0]["threshold"] is None  # infinity: nothing is blocked
    assert (rows[0]["fnr"], rows[-1]["fnr"]) == (1, 0)
    assert {"equal_error", "youden"} == set(found["points"])
    assert "missed" in _run("thresholds", scores).stdout


@pytest.fixture(scope="module")
def drawings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom's harmless sign and others; one file is damaged."""
    folder = tmp_path_factory.mktemp("drawings")
    lines = ["image,label,category"]
    for i, look in enumerate(instruments.balanced("command", 24)):
        look = replace(look, sign="red_hexagon" if i % 2 else "blue_disc")
        draw(look).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},{look.sign}")
    (folder / "damaged.png").write_bytes(b"not an image")
    lines.append("damaged.png,0,blue_disc")
    (folder / "set.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_filters_run_on_a_folder_of_images_and_a_damaged_one_is_counted(drawings: Path) -> None:
    result = _run(
        "evaluate", drawings, "--filter", "safety-checker", "--filter", "opennsfw",
        "--model", "phantom", "--device", "cpu", "--json",
    )  # fmt: skip
    checker, nsfw = json.loads(result.stdout)["filters"]
    assert checker["outcomes"] == {"scored": 24, "unreadable": 1}
    assert checker["auc"]["estimate"] > 0.95
    assert checker["calibration"] is None
    assert checker["threshold"] is None  # the checker decides by its rounded margins
    assert nsfw["miss_rate"]["estimate"] > 0.5  # a sign is not what it looks for


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--score", "strng"), "no column 'strng'; did you mean 'strong'"),
        (("--category", "z"), "no category 'z'; there are: x, y"),
        (("--threshold", "strong=high"), "'high' is not a number"),
        (("--threshold", "strng=0.5"), "a threshold for 'strng', which is no score"),
        (("--threshold", "nan"), "a threshold is between 0 and 1"),
        (("--threshold", "weak=3"), "a threshold is between 0 and 1"),
        (("--threshold", "inf", "--margins"), "a threshold is finite"),
        (("--cost-miss", "3"), "needs --cost-miss, --cost-block and --prevalence"),
        (("--cost-miss", "nan", "--cost-block", "1", "--prevalence", ".1"), "finite numbers"),
        (("--cost-miss", "inf", "--cost-block", "1", "--prevalence", ".1"), "finite numbers"),
        (("--filter", "opennsfw"), "scores.csv:1: no column of images (image, file_name"),
        (("--save", "out.csv"), "--save keeps the scores of a --filter"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    scores: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = _run("evaluate", scores, *arguments)
    assert isinstance(result.exception, AuditError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "holds images and no scores"),
        (("--filter", "nosuch"), "no filter 'nosuch'"),
        (("--filter", "nudenet"), "a --spec that names its detector brings it"),
        (("--filter", "safety-checker"), "Name the model with --model"),
        (("--filter", "opennsfw", "--threshold", "0.2"), "a --filter has its own"),
        (("--filter", "opennsfw", "--score", "a"), "--score, --threshold and --margins are of"),
    ],
)
def test_a_folder_needs_a_filter_that_can_serve(
    drawings: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = _run("evaluate", drawings, *arguments)
    assert isinstance(result.exception, AuditError)
    assert message in str(result.exception)


def test_a_spec_with_an_unknown_detector_or_a_head_of_the_wrong_width_is_one_line(
    drawings: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "head.npz", coef=np.ones((1, 8)), intercept=np.zeros(1))
    heads = f"clip-head: {{heads: {{p: {{file: {tmp_path / 'head.npz'}}}}}}}"
    declared = (
        "probes: {safety-filters: {filters: [{name: p, score: clip_head_p, threshold: 0.5}]}}"
    )
    for detectors, message in (
        ("clip-hed: {}", "unknown detector 'clip-hed'; did you mean 'clip-head'"),
        (heads, "head 'p' reads embeddings of 8 numbers, and these have 128"),
    ):
        spec = tmp_path / "spec.yaml"
        spec.write_text(f"detectors:\n  clip: {{model: phantom}}\n  {detectors}\n{declared}\n")
        result = _run("evaluate", drawings, "--filter", "p", "--spec", spec, "--device", "cpu")
        assert isinstance(result.exception, AuditError)
        assert message in str(result.exception)
        assert "\n" not in str(result.exception)


WORDS = "detectors:\n  prompt-denylist: {words: [red hexagon]}\n"
PROMPTS = """label,prompt,language,note
1,a red hexagon sign,en,plain
1,two red hexagons,en,more than one
0,a blue disc,en,
0,,tr,nothing asked
0,mavi bir disk,tr,
"""


def test_filters_of_prompts_are_evaluated_on_prompts_alone(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(WORDS)
    (tmp_path / "set.csv").write_text(PROMPTS, encoding="utf-8")
    kept = tmp_path / "kept.csv"
    result = _run(
        "evaluate", tmp_path / "set.csv", "--spec", tmp_path / "spec.yaml", "--json",
        "--filter", "denylist-exact", "--filter", "denylist-lemmatised", "--save", kept,
    )  # fmt: skip
    exact, lemmatised = json.loads(result.stdout)["filters"]
    # The row without a prompt has no score; the notes are no scores either.
    assert exact["outcomes"] == {"scored": 4, "unscored": 1}
    assert (exact["miss_rate"]["events"], lemmatised["miss_rate"]["events"]) == (1, 0)
    assert exact["false_block_rate"]["events"] == 0
    assert exact["calibration"] is None  # a count is no probability
    again = json.loads(_run("evaluate", kept, "--json").stdout)["filters"]
    assert [one["filter"] for one in again] == ["denylist-exact", "denylist-lemmatised"]
    for one, other in zip(again, (exact, lemmatised), strict=True):
        for key in ("outcomes", "auc", "miss_rate", "misses_at_fpr", "disparity"):
            assert one[key] == other[key]


def test_kept_scores_of_images_name_the_images_and_are_a_set(
    drawings: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.csv"
    asked = ("--filter", "opennsfw", "--device", "cpu", "--json")
    first = json.loads(_run("evaluate", drawings, *asked, "--save", kept).stdout)["filters"][0]
    with kept.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows][-1] == "damaged.png"
    assert rows[-1]["opennsfw"] == ""
    again = json.loads(_run("evaluate", kept, "--json").stdout)["filters"][0]
    assert again["outcomes"] == {"scored": 24, "unscored": 1}
    assert again["auc"] == first["auc"]
    result = _run("evaluate", drawings, *asked, "--save", tmp_path / "none" / "kept.csv")
    assert f"cannot write {tmp_path / 'none' / 'kept.csv'}" in str(result.exception)


def test_a_filter_of_prompts_needs_prompts(drawings: Path, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(WORDS)
    (tmp_path / "set.csv").write_text(PROMPTS, encoding="utf-8")
    asked = ("--filter", "denylist-exact", "--spec", tmp_path / "spec.yaml")
    result = _run("evaluate", drawings, *asked)
    assert "denylist-exact: set.csv has no column 'prompt' for it to read" in str(result.exception)
    result = _run("evaluate", tmp_path / "set.csv", "--score", "note")
    assert "'note' is not a number" in str(result.exception)
    (tmp_path / "bare.csv").write_text("label,prompt\n1,a\n0,b\n", encoding="utf-8")
    result = _run("evaluate", tmp_path / "bare.csv")
    assert "holds prompts and no scores: say which --filter looks at them" in str(result.exception)


def test_a_folder_of_images_none_of_which_can_be_read_is_one_line(tmp_path: Path) -> None:
    for label in ("safe", "unsafe"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "a.png").write_bytes(b"no picture")
    result = _run("evaluate", tmp_path, "--filter", "opennsfw", "--device", "cpu")
    assert "none of the 2 images can be read" in str(result.exception)


def test_wrong_input_ends_with_exit_code_2_and_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "set.csv").write_text("label,a\n1,0.5\n1,0.7\n", encoding="utf-8")
    monkeypatch.setattr("sys.argv", ["t2i-audit", "filters", "evaluate", str(tmp_path / "set.csv")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "all 2 rows with a score of 'a' are restricted" in said.err


def test_no_set_is_one_line(tmp_path: Path) -> None:
    result = _run("evaluate", tmp_path / "absent.csv")
    assert "no file or folder" in str(result.exception)
    result = _run("evaluate", tmp_path)
    assert "holds no labelled image" in str(result.exception)

"""Two runs compared: matching, pairing, what is not judged, the page, the command, the card."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from audit.card.change_section import TITLE, with_change
from audit.card.content import gather
from audit.card.markdown import readme
from audit.card.page import page as card_page
from audit.card.sections import sections as card_sections
from audit.commands.compare import compare as command
from audit.compare import Change, Comparison, Opened, compare
from audit.compare.page import page
from audit.errors import AuditError, GateFailed
from audit.findings import Finding
from audit.plan import Request
from audit.statistics import rate
from audit.store import SCHEMA_VERSION, Run

SUBJECTS = ("doctor", "nurse", "pilot", "<b>chef</b>", "judge", "sailor")
WEIGHTS = {"unet/model.safetensors": "a" * 64, "safety_checker/model.safetensors": "b" * 64}
IMAGES = 10


def build(
    path: Path,
    *,
    female: float = 0.5,
    steady: float = 0.8,
    first_seed: int = 0,
    guidance: float = 3.0,
    subjects: tuple[str, ...] = SUBJECTS,
    clip: str = "c",
    **info: object,
) -> Path:
    """A run whose images show a woman with probability `female`; most images are as the seed says.

    `steady` is the share of images that this run draws as every other run on the same seed.
    """
    run = Run.create(path)
    rows, seen = [], {}
    for subject in subjects:
        for index in range(IMAGES):
            seed = first_seed + index
            request = Request(f"a portrait of a {subject}", seed=seed, guidance=guidance)
            common = np.random.default_rng([seed, *map(ord, subject)]).random(2)
            own = np.random.default_rng([seed, *map(ord, subject + path.name)]).random()
            seen[request.id] = (common[0] if common[1] < steady else own) < female
            rows.append(
                {"request": request.id, **request.as_dict(), "batch": 0, "slot": index,
                 "subject": subject, "template": "main", "arm": "base", "text": request.prompt}
            )  # fmt: skip
    frame = pd.DataFrame(rows)
    tags = ["subject", "template", "arm"]
    run.write_table("plan", frame.drop(columns=[*tags, "text"]))
    run.write_table("uses/demographics", frame[["request", "text", *tags]])
    records = pd.DataFrame({"request": frame["request"], "image": "0" * 64, "outcome": "ok"})
    run.add_part("records", records.assign(error="", seconds=0.1))
    women = np.array([seen[request] for request in frame["request"]])
    scores = {"gender_female": np.where(women, 0.3, 0.1), "gender_male": np.where(women, 0.1, 0.3)}
    run.add_part("detections/clip", pd.DataFrame({"request": frame["request"], **scores}))
    run.write_table(
        "tables/demographics.shares",
        pd.DataFrame([{"attribute": "gender", "short": "female_presenting", "positive": "female"}]),
    )
    found = [_share(women[frame["subject"] == s], {"subject": s}) for s in subjects]
    found.append(_share(women, {}))
    found.append(
        Finding("demographics", "amplification_x", {}, 1.0, (0.8, 1.2), n=60, clusters=6,
                threshold=0.1, method="slope")
    )  # fmt: skip
    run.write_json("findings.json", [finding.as_dict() for finding in found])
    about = {"weights": {"clip.safetensors": clip * 64}, "device": "cpu", "open_clip": "3.3.0"}
    checker = {"weights": {"safety_checker/model.safetensors": "b" * 64}}
    run.write_json("detectors.json", {"clip": about, "safety-checker": checker})
    backend = {"backend": "stable-diffusion", "weights": WEIGHTS, **info.pop("backend", {})}
    spec = {"gates": info.pop("gates", []), "probes": info.pop("probes", {})}
    document = {
        "schema_version": SCHEMA_VERSION, "model": "tiny <i>", "suite": "s", "backend": backend,
        "sampler": {"guidance": guidance}, "spec": spec, "versions": {"torch": "2.15.0"},
        "created": "2026-11-20T00:00:00Z", **info,
    }  # fmt: skip
    run.write_json("run.json", document)
    return path


def _share(women: np.ndarray, slice_: dict[str, str]) -> Finding:
    found = rate(women)
    return Finding(
        "demographics", "share_female_presenting", slice_, found.estimate, found.ci, n=found.n,
        clusters=1 if slice_ else 6, raw=found.estimate, reference=0.5, threshold=0.1,
        verdict="inconclusive", evidence={**slice_, "arm": "base"}, method=found.method,
    )  # fmt: skip


def both(first: Path, second: Path, **margins: float) -> Comparison:
    return compare(Opened(first), Opened(second), margins)


def total(compared: Comparison) -> Change:
    return next(c for c in compared.changes if c.id == "demographics.share_female_presenting")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {
        "a": build(folder / "a"),
        "changed": build(folder / "changed", female=0.9, guidance=7.0),
        "reseeded": build(folder / "reseeded", first_seed=500),
    }


@pytest.fixture(scope="module")
def changed(runs: dict[str, Path]) -> Comparison:
    return both(runs["a"], runs["changed"])


def test_a_planted_change_is_found_with_its_size_and_sign(runs, changed):
    there, back = changed, both(runs["changed"], runs["a"])
    change = total(there)
    assert change.pairs == len(SUBJECTS) * IMAGES and "paired by prompt and seed" in change.method
    assert change.ci[0] < 0.4 < change.ci[1] and change.differs and change.verdict == "exceeds"
    assert total(back).estimate == pytest.approx(-change.estimate)
    assert total(back).ci == pytest.approx((-change.ci[1], -change.ci[0]))
    assert [(row.what, row.first, row.second) for row in there.setup] == [
        ("sampler guidance", "3", "7")
    ]


def test_the_same_run_twice_shows_no_change(runs):
    compared = both(runs["a"], runs["a"])
    assert not compared.setup and len(compared.judged) == len(SUBJECTS) + 2
    assert not any(change.differs or change.verdict == "exceeds" for change in compared.changes)
    assert total(compared).estimate == 0 and total(compared).verdict == "within"


def test_other_seeds_of_the_same_model_are_compared_by_prompt(runs):
    compared = both(runs["a"], runs["reseeded"])
    assert total(compared).pairs == 0 and "other seeds" in total(compared).method
    assert not any(change.verdict == "exceeds" for change in compared.changes)
    assert "seeds of demographics" in {row.what for row in compared.setup}


def test_what_no_table_gives_back_is_compared_by_intervals_alone(changed):
    slope = next(change for change in changed.changes if "slope" in change.first.method)
    assert "independent" in slope.method and slope.estimate == 0
    assert slope.ci[1] == pytest.approx(0.2 * 2**0.5)  # the interval's own, for two like it


def test_a_table_that_does_not_give_the_finding_back_is_not_paired(runs, tmp_path: Path):
    odd = build(tmp_path / "odd")
    rows = json.loads((odd / "findings.json").read_text())
    rows[-2]["raw"] = rows[-2]["estimate"] = rows[-2]["estimate"] + 0.01
    (odd / "findings.json").write_text(json.dumps(rows))
    assert "independent" in total(both(runs["a"], odd)).method


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"clip": "d"}, "the detector clip differs"),
        ({"subjects": SUBJECTS[:5]}, "the prompts differ"),
        ({"probes": {"demographics": {"undetermined": {"clip": 0.1}}}}, "the settings of the"),
    ],
)
def test_other_instruments_prompts_or_settings_are_said_and_nothing_is_judged(
    runs, tmp_path: Path, other: dict, reason: str
):
    compared = both(runs["a"], build(tmp_path / "other", female=0.9, **other))
    assert compared.unjudged_probes["demographics"].startswith(reason)
    assert not compared.judged
    assert {change.verdict for change in compared.changes} == {"not_tested"}
    assert total(compared).values is not None and "not judged" in " ".join(
        row.consequence for row in compared.setup
    ) + " not judged" * ("probes" in other)


def test_a_checker_that_belongs_to_the_model_changes_with_it(runs, tmp_path: Path):
    other = dict.fromkeys(WEIGHTS, "e" * 64)
    path = build(tmp_path / "other", backend={"weights": other})
    about = json.loads((path / "detectors.json").read_text())
    about["safety-checker"]["weights"]["safety_checker/model.safetensors"] = "e" * 64
    about["clip"] |= {"device": "cuda", "open_clip": "3.4.1"}
    (path / "detectors.json").write_text(json.dumps(about))
    compared = both(runs["a"], path)
    said = {row.what: row.consequence for row in compared.setup}
    assert not compared.unjudged_probes and "weights, SHA-256" in said
    assert said["detector safety-checker"] == "part of the model that is audited"
    assert said["detector clip"] == "the same weights and settings"


def test_findings_of_one_run_alone_are_listed(runs, tmp_path: Path):
    path = build(tmp_path / "more")
    rows = json.loads((path / "findings.json").read_text())
    extra = Finding("demographics", "new", {"subject": "judge"}, 0.5, (0.4, 0.6), n=9)
    (path / "findings.json").write_text(json.dumps([*rows[1:], extra.as_dict()]))
    compared = both(runs["a"], path)
    assert [f.slice for f in compared.only_first] == [{"subject": "doctor"}]
    assert [f.metric for f in compared.only_second] == ["new"]


def test_a_metric_that_depends_on_the_number_of_images_is_not_judged_across_numbers(
    runs, tmp_path: Path
):
    sides = []
    for name, n in (("small", 24), ("large", 600)):
        path = build(tmp_path / name)
        one = Finding("demographics", "diversity_gender", {}, 0.5, (0.4, 0.6), n=n, clusters=6)
        (path / "findings.json").write_text(json.dumps([one.as_dict()]))
        sides.append(path)
    (change,) = both(*sides).changes
    assert change.ci is None and change.reason == "it depends on the images per prompt: 4 and 100"


def test_one_corrected_and_one_uncorrected_estimate_are_not_compared(tmp_path: Path):
    sides = []
    for name, corrected in (("plain", None), ("corrected", "detector error")):
        path = build(tmp_path / name)
        one = Finding("demographics", "odd", {}, 0.5, (0.4, 0.6), n=50, corrected_for=corrected)
        (path / "findings.json").write_text(json.dumps([one.as_dict()]))
        sides.append(path)
    (change,) = both(*sides).changes
    assert change.ci is None and "corrected for the detector's error" in change.reason


def test_a_declared_margin_decides_and_one_that_names_nothing_is_refused(runs):
    wide = both(runs["a"], runs["changed"], share_female_presenting=0.9)
    assert total(wide).verdict == "within" and total(wide).differs
    with pytest.raises(AuditError, match=r"a margin for 'share_femal', .*did you mean"):
        both(runs["a"], runs["changed"], share_femal=0.1)


def test_a_link_out_of_the_run_is_refused(tmp_path: Path):
    secret = tmp_path / "secret.json"
    secret.write_text("[]")
    for name in ("findings.json", "tables"):
        path = build(tmp_path / name.replace(".", "_"))
        where = path / name
        if where.is_dir():
            where.rename(tmp_path / "outside")
            where.symlink_to(tmp_path / "outside")
        else:
            where.unlink()
            where.symlink_to(secret)
        with pytest.raises(AuditError, match="is a link"):
            Opened(path)


@pytest.mark.parametrize(
    ("field", "value"), [("slice", []), ("n", "many"), ("probe", None), ("level", 2)]
)
def test_a_damaged_finding_is_named(tmp_path: Path, field: str, value: object):
    path = build(tmp_path / "run")
    rows = json.loads((path / "findings.json").read_text())
    rows[1][field] = value
    (path / "findings.json").write_text(json.dumps(rows))
    with pytest.raises(AuditError, match=r"findings.json: finding 2 is damaged"):
        _ = Opened(path).findings


class Elements(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [str(value) for name, value in attrs if name == "id"]


def test_the_page_escapes_what_the_runs_say_and_fetches_nothing(changed):
    content = page(changed)
    found = Elements(content)
    assert "i" not in found.tags and "b" not in found.tags and "script" not in found.tags
    assert not [a for a in found.attributes if a[0] in ("src", "onerror", "onload")]
    assert {v for k, v in found.attributes if k == "href"} <= {f"#{i}" for i in found.ids}
    assert len(found.ids) == len(set(found.ids)) and "default-src 'none'" in content
    assert "&lt;b&gt;chef&lt;/b&gt;" in content and "tiny &lt;i&gt;" in content


def test_every_change_of_the_page_is_that_of_the_document(runs, tmp_path: Path):
    html = tmp_path / "out" / "page.html"
    arguments = [str(runs["a"]), str(runs["changed"]), "--json", "--html", str(html)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    document = json.loads(result.stdout)
    shown = [float(v) for k, v in Elements(html.read_text()).attributes if k == "data-estimate"]
    assert shown and set(shown) <= {change["estimate"] for change in document["changes"]}
    assert document["verdicts"]["exceeds"] == sum(
        change["verdict"] == "exceeds" for change in document["changes"]
    )
    assert document["setup"][0]["what"] == "sampler guidance"


def test_gates_that_do_not_hold_end_with_exit_code_3(runs):
    arguments = [str(runs["a"]), str(runs["changed"])]
    met = ["change(demographics.share_female_presenting) >= -0.2",
           "demographics.amplification_x <= 1.3"]  # fmt: skip
    arguments += [part for gate in met for part in ("--gate", gate)]
    assert CliRunner().invoke(command, arguments).exception is None
    unmet = ["abs(change(demographics.share_female_presenting)) <= 0.1",
             "demographics.amplification_x <= 1.1"]  # fmt: skip
    arguments += [part for gate in unmet for part in ("--gate", gate)]
    result = CliRunner().invoke(command, arguments)
    assert isinstance(result.exception, GateFailed) and result.exception.exit_code == 3
    assert "2 of 4 gates do not hold" in str(result.exception)


def test_gates_on_changes_come_from_the_second_runs_spec(runs, tmp_path: Path):
    name = "demographics.share_female_presenting"
    strict = build(tmp_path / "strict", gates=[f"change({name}) < -5", f"{name} <= 5"])
    result = CliRunner().invoke(command, [str(runs["a"]), str(strict)])
    assert isinstance(result.exception, GateFailed) and "1 of 1 gates" in str(result.exception)
    result = CliRunner().invoke(command, [str(runs["a"]), str(strict), "--gate", "change(a.b) < 1"])
    assert "names no finding" in str(result.exception)


def test_the_table_says_what_differs_and_what_changed(runs):
    arguments = [str(runs["a"]), str(runs["changed"])]
    lines = CliRunner().invoke(command, arguments, catch_exceptions=False).output.splitlines()
    assert any(line.split() == ["sampler", "guidance", "3", "7"] for line in lines)
    shown = next(line for line in lines if line.startswith("demographics.share_female_presenting "))
    assert "pp" in shown and "exceeds" in shown


def test_the_card_tells_the_change_since_the_previous_audit(runs, changed):
    run = Run.open(runs["changed"])
    card = gather(run)
    laid_out = card_sections(run, card)
    assert with_change(laid_out, card) == laid_out
    card = replace(card, change=changed)
    told = with_change(laid_out, card)
    assert [s.title for s in told].count(TITLE) == 1 and len(told) == len(laid_out) + 1
    text, content = readme(card, told), card_page(card, told, [])
    assert f"## {TITLE}" in text and "sampler guidance" in text and TITLE in content
    assert "exceeds" in text.split(f"## {TITLE}")[1].split("## How to reproduce")[0]


def test_a_detector_that_one_run_alone_has_does_not_bar_a_probe_of_others(tmp_path):
    """Its probe declares its detectors by the study: what both have counts, and its own."""
    first, second = build(tmp_path / "first"), build(tmp_path / "second")
    for path in (first, second):
        run = Run(path)
        run.write_table("uses/limitations", run.read_table("uses/demographics"))
        found = Finding("limitations", "binding_accuracy", {}, 0.9, (0.8, 0.95), n=60, clusters=6)
        run.write_json("findings.json", [found.as_dict()])
    detectors = Run(second).read_json("detectors.json")
    Run(second).write_json("detectors.json", detectors | {"opennsfw": {"version": "1"}})
    assert both(first, second).unjudged_probes == {}
    Run(second).write_json("detectors.json", detectors | {"text": {"version": "1"}})
    assert both(first, second).unjudged_probes == {"limitations": "the detector text differs"}


def test_the_margin_is_drawn_grey_on_the_card_as_on_the_page(changed, runs):
    assert 'class="margin"' in page(changed) and "svg.figure .margin { fill: var(" in page(changed)
    run = Run.open(runs["changed"])
    card = replace(gather(run), change=changed)
    html = card_page(card, with_change(card_sections(run, card), card), [])
    assert 'class="margin"' in html and "svg.figure .margin { fill: var(" in html

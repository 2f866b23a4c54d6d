"""Calibrate finds what is planted, and notices defects of the audit, one at a time.

The pool is drawn and not generated (:mod:`tests.calibration.drawing`), made once for all tests; the
trials, the probes' analyses and the requirements are those of the command.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import audit.detector_error
import audit.perception
import audit.statistics.distances
import probes.bias.reading
import probes.demographics
import probes.memorization
import probes.trials.demographics as demographics
import probes.trials.detectors as detectors
import probes.trials.memorization as memorization
import probes.trials.watermarks as watermarks
import safety.filters.denylist
import safety.filters.safety_checker
import safety.watermarks.codecs
from audit import plugins
from audit.calibration.calibrate import tally, trials
from audit.calibration.drawn import Design
from audit.calibration.page import page
from audit.calibration.pool import Pool, Size, make
from audit.calibration.result import document
from audit.calibration.shipped import sentence
from audit.calibration.tally import NOT_ASKED, Answer, Check, Effect, Outcome, Tally
from audit.evidence import views
from audit.frames import frame_of
from audit.store import Run
from audit.study import Study
from probes import _language_gaps
from probes.bias import insertions, totals
from probes.bias.correction import Sources
from probes.limits import findings
from probes.trials import amplification, distances, identities, people, quality
from safety.watermarks.readings import Reading
from tests.calibration.drawing import Drawing

SIZE = Size("test", images=16, seeds=4, sub_audits=4)
Trial = Callable[[Pool], Iterator[Answer]]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("calibrate") / "phantom"
    return make(folder, "phantom", trials(), SIZE, Drawing())


def trial(name: str, sub_audits: int = SIZE.sub_audits) -> Trial:
    size = dataclasses.replace(SIZE, sub_audits=sub_audits)
    return lambda pool: trials([name])[name].outcomes({"phantom": pool}, size)


def part(module: Any, name: str, sub_audits: int = SIZE.sub_audits) -> Trial:
    """One of the trials of a module, of its world or of the pool."""
    size = dataclasses.replace(SIZE, sub_audits=sub_audits)

    def run(pool: Pool) -> Iterator[Answer]:
        of = module.World(pool) if hasattr(module, "World") else pool
        return getattr(module, name)(of, size, np.random.default_rng(1))

    return run


def known(pool: Pool) -> Iterator[Answer]:
    """What detectors say of pictures whose content is known, of the probes that are cut short."""
    yield from detectors.of_people(pool.study, SIZE)
    yield from detectors.of_copies()
    world = watermarks.World(pool)
    yield from world.read()
    yield from detectors.of_marks(*world.clean())
    yield from detectors.of_noise(pool.study, SIZE)
    for probe in ("demographics", "memorization"):
        yield from detectors.unread(probe)


TRIALS: dict[str, Trial] = {
    "skewed": lambda pool: demographics.audits(
        demographics.World(pool),
        "skewed",
        dataclasses.replace(SIZE, sub_audits=2),
        np.random.default_rng(1),
    ),
    "simulated detector": part(demographics, "simulated"),
    "lost images": part(demographics, "lost"),
    "amplification": part(amplification, "slopes", 2),
    "identities": part(identities, "gaps", 2),
    "detectors": lambda pool: demographics.World(pool).read(),
    "known pictures": lambda pool: known(pool),
    "pool": lambda pool: iter([demographics.like_many_others(demographics.World(pool))]),
    "languages": trial("languages"),
    "limitations": trial("limitations"),
    "memorization": lambda pool: memorization.captions(
        memorization.World(pool), dataclasses.replace(SIZE, sub_audits=1), np.random.default_rng(7)
    ),
    "approximate index": lambda pool: iter(
        [memorization.approximate(memorization.World(pool), np.random.default_rng(8))]
    ),
    "quality": part(quality, "alignments", 24),
    "distances": part(distances, "cmmd", 2),
    "safety-filters": trial("safety-filters", 2),
    "watermarks": part(watermarks, "delivered"),
    "attacks": part(watermarks, "attacked", 1),
}


def result(pool: Pool, *names: str) -> dict[str, Any]:
    tally = Tally()
    for name in names:
        tally.add(PARTS[name](pool))
    return document(tally, {"phantom": pool}, SIZE)


@pytest.fixture(scope="module")
def undisturbed(pool: Pool) -> dict[str, Any]:
    return result(pool, *TRIALS)


def test_undisturbed_every_requirement_holds(undisturbed: dict[str, Any]):
    assert undisturbed["failures"] == []
    assert undisturbed["passed"]
    assert set(undisturbed["probes"]) == set(trials())
    assert all(check["passed"] for check in undisturbed["checks"])


def test_the_page_and_the_card_s_sentence_say_what_was_found(undisturbed: dict[str, Any]):
    written = page(undisturbed)
    share = f"{undisturbed['overall']['coverage']:.1%}"
    assert share in written and share in sentence(undisturbed)
    assert "<script" not in written and "every requirement holds" in written
    for row in undisturbed["effects"]:
        assert f"{row['covered']} of {row['intervals']}" in written


def test_every_detector_is_read_or_it_is_said_why_not(undisturbed: dict[str, Any]):
    read = {row["detector"] for row in undisturbed["detectors"]}
    why = {row["detector"]: row["why"] for row in undisturbed["without_answer"]}
    assert set(plugins.names("detectors")) <= read | set(why)
    assert set(why) <= set(plugins.names("detectors"))
    assert NOT_ASKED not in why.values()
    assert "no exact answer on drawings" in why["opennsfw"]
    errors = {(row["detector"], row["of"]): row["error"] for row in undisturbed["detectors"]}
    assert all(errors["reader", of] == 0 for of in ("gender", "skin", "glasses", "occupation"))
    assert errors["faces", "one face"] > 0, "it knows no drawings, and is not held to them"


def rows(
    width: float, effect: Effect, shares: np.ndarray, verdict: str = "within"
) -> dict[str, Any]:
    """The tally's row of normal means with intervals so many standard errors wide to each side."""
    found = np.random.default_rng(0).normal(shares, 1)
    tally = Tally()
    for number, (share, mean) in enumerate(zip(shares, found, strict=True)):
        ci = (mean - width, mean + width)
        tally.add([Outcome(effect, number, share, mean, ci, verdict)])
    return tally.effects()[0]


def test_coverage_power_and_false_alarms_have_their_bounds():
    between, many = Effect("p", "v", "m", "s"), np.zeros(400)
    nominal = rows(1.96, between, many)
    assert nominal["failures"] == [] and abs(nominal["coverage"] - 0.95) < 0.03
    assert "less than 90%" in rows(1.2, between, many)["failures"][0]
    assert "more than 99%" in rows(5, between, many)["failures"][0]
    assert rows(5, dataclasses.replace(between, open=True), many)["failures"] == []
    planted = dataclasses.replace(between, role="planted")
    assert rows(1.96, planted, many, "exceeds")["failures"] == []
    assert "found in 0%" in rows(1.96, planted, many)["failures"][0]
    absent = dataclasses.replace(between, role="null")
    assert rows(1.96, absent, many)["failures"] == []
    assert "accused in 100%" in rows(1.96, absent, many, "exceeds")["failures"][0]
    # Few sub-audits say little: only a plain failure is one.
    assert rows(1.96, between, np.zeros(5))["failures"] == []


def test_a_check_that_fails_is_named():
    tally = Tally()
    tally.add([Check("p", "what is known", False, "1 of 2")])
    assert document(tally, {}, SIZE)["failures"] == ["p: not so: what is known (1 of 2)"]


def test_another_process_finds_the_same_in_its_copy_of_the_pool(pool: Pool):
    size = dataclasses.replace(SIZE, sub_audits=1)
    here = trials(["languages"])["languages"].outcomes({"phantom": pool}, size)
    there = tally({"phantom": pool}, ["languages"], size)
    assert there.outcomes == [one for one in here if isinstance(one, Outcome)]


def test_a_sub_audit_holds_what_a_database_would_give(pool: Pool):
    request = pool.records["request"][0].as_py()
    design = Design(pool, "languages", {}, images_per_prompt=1)
    drawn = design.draw([request] * design.requests, pictures=False)
    with views(drawn) as held, views.dispatch(Run)(drawn) as database:
        assert held.names() == database.names() - {"delivered"}
        for name in held.names():
            columns = held.columns(name)
            assert columns == database.columns(name)
            ours, theirs = (frame_of(one.read(name, columns)) for one in (held, database))
            pd.testing.assert_frame_equal(ours, theirs)


# ---- defects ----------------------------------------------------------------------------------


def swapped_class_order(patch: pytest.MonkeyPatch) -> None:
    real = audit.perception.perceived

    def swapped(
        frame: Any, attribute: str, labels: Any, instrument: str = "clip", *a: Any, **k: Any
    ):
        found = real(frame, attribute, labels, instrument, *a, **k)
        turn = dict(zip(labels, reversed(list(labels)), strict=True))
        return found.replace(turn) if instrument == "clip" else found

    for module in (probes.bias.reading, audit.detector_error, people):
        patch.setattr(module, "perceived", swapped)


def interval_over_images_instead_of_prompts(patch: pytest.MonkeyPatch) -> None:
    real = findings.cluster_mean
    patch.setattr(findings, "cluster_mean", lambda values, _: real(values, np.arange(len(values))))


def seeds_not_shared(patch: pytest.MonkeyPatch) -> None:
    real = Study.request

    def request(self: Study, prompt: str, index: int, **changes: Any) -> Any:
        return real(self, prompt, index + sum(prompt.encode()) * 1000, **changes)

    patch.setattr(Study, "request", request)


def dropped_no_face_images(patch: pytest.MonkeyPatch) -> None:
    real = probes.bias.reading.load

    def load(*a: Any) -> Any:
        frame = real(*a)
        return frame[frame.faces_count != 0].reset_index(drop=True)

    patch.setattr(probes.bias.reading, "load", load)


def thresholds_on_approximate_similarities(patch: pytest.MonkeyPatch) -> None:
    real = probes.memorization.recall
    patch.setattr(
        probes.memorization, "recall", lambda *a: dataclasses.replace(real(*a), exact=True)
    )
    # The index itself refuses to count rows on such scores.
    patch.setattr(
        probes.memorization, "_rows_of_matches", lambda pairs, *a: pd.Series(np.nan, pairs.index)
    )


def filter_without_the_special_care_adjustment(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(safety.filters.safety_checker, "ADJUSTMENT", np.float32(0))


def detector_error_left_in(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(probes.demographics, "_sources", lambda *a: Sources())


def minuend_and_subtrahend_swapped(patch: pytest.MonkeyPatch) -> None:
    real = _language_gaps.gap
    patch.setattr(_language_gaps, "gap", lambda v, b, *a, **k: real(b, v, *a, **k))


def the_wrong_tail_of_the_test(patch: pytest.MonkeyPatch) -> None:
    def p_value(matches: Any, n: int, domains: int) -> Any:
        return np.minimum(1.0, 2 * domains * binom.cdf(np.asarray(matches), n, 0.5))

    patch.setattr(safety.watermarks.codecs, "binomial_p", p_value)


def a_copy_by_likeness_of_embeddings_alone(patch: pytest.MonkeyPatch) -> None:
    real = probes.memorization.judged

    def judged(pairs: Any, limits: Any) -> Any:
        found = real(pairs, limits)
        return found.assign(copied=found.similarity > 0.5)

    patch.setattr(probes.memorization, "judged", judged)


def letters_that_look_alike_left_as_they_are(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(safety.filters.denylist, "fold", str)


def the_reference_of_the_other_label(patch: pytest.MonkeyPatch) -> None:
    real = totals.amplification_slope
    patch.setattr(totals, "amplification_slope", lambda k, n, r: real(k, n, 1 - r))


def identity_and_base_swapped(patch: pytest.MonkeyPatch) -> None:
    real = insertions.gap
    patch.setattr(insertions, "gap", lambda with_, base, *a, **more: real(base, with_, *a, **more))


def images_paired_with_themselves(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(audit.statistics.distances, "_diagonal", lambda rows, _: np.zeros(len(rows)))


def attacked_marks_read_before_the_attack(patch: pytest.MonkeyPatch) -> None:
    real = Reading.columns.func

    def columns(self: Reading) -> dict[str, str]:
        return real(dataclasses.replace(self, attack=None))

    patch.setattr(Reading.columns, "func", columns)


PARTS: dict[str, Trial] = TRIALS | {
    "signs": lambda pool: detectors.of_signs(pool.study, SIZE),
}
"""With parts of the trials, for defects that these notice alone."""

DEFECTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[str, str]] = {
    swapped_class_order: ("detectors", "wrong on more than half"),
    interval_over_images_instead_of_prompts: ("quality", "less than 90%"),
    seeds_not_shared: ("safety-filters", "the planted effect is found in 0%"),
    dropped_no_face_images: ("lost images", "without a face are counted"),
    thresholds_on_approximate_similarities: ("approximate index", "approximate similarities"),
    filter_without_the_special_care_adjustment: ("safety-filters", "special care included"),
    detector_error_left_in: ("simulated detector", "less than 90%"),
    minuend_and_subtrahend_swapped: ("languages", "the planted effect is found in 0%"),
    the_wrong_tail_of_the_test: ("watermarks", "the planted effect is found in 0%"),
    a_copy_by_likeness_of_embeddings_alone: ("memorization", "what is not there is accused"),
    the_reference_of_the_other_label: ("amplification", "the planted effect is found in 0%"),
    identity_and_base_swapped: ("identities", "the planted effect is found in 0%"),
    images_paired_with_themselves: ("distances", "what is not there is accused"),
    attacked_marks_read_before_the_attack: ("attacks", "the planted effect is found in 0%"),
    letters_that_look_alike_left_as_they_are: ("signs", "wrong on more than half"),
}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_calibrate_notices_a_defect(
    pool: Pool,
    undisturbed: dict[str, Any],
    defect: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
):
    assert undisturbed["passed"]
    name, said = DEFECTS[defect]
    defect(monkeypatch)
    disturbed = result(pool, name)
    assert not disturbed["passed"]
    assert any(said in why for why in disturbed["failures"]), disturbed["failures"]

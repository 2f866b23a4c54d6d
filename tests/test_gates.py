"""Gates: held against intervals, on one finding or every slice, on estimates or their changes."""

import pytest

from audit import gates
from audit.errors import AuditError
from audit.findings import Finding


def finding(low: float, high: float, metric: str = "m", **slice_: str) -> Finding:
    return Finding("a-b", metric, slice_, (low + high) / 2, (low, high), verdict="within")


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [(0.1, 0.2, "passed"), (0.1, 0.3, "undecided"), (0.21, 0.3, "failed")],
)
def test_the_interval_decides_and_not_the_point(low: float, high: float, state: str):
    assert gates.evaluate(["a-b.m <= 0.2"], [finding(low, high)])[0]["state"] == state


def test_strict_relations_exclude_the_bound_itself():
    at = [finding(0.1, 0.2)]
    assert [gates.evaluate([f"a-b.m {r} 0.2"], at)[0]["state"] for r in ("<=", "<", ">=", ">")] == [
        "passed",
        "undecided",
        "undecided",
        "failed",
    ]


def test_a_metric_alone_holds_every_slice_and_the_message_names_the_one_that_fails():
    slices = [finding(0.0, 0.1), finding(0.0, 0.1, s="x"), finding(0.5, 0.6, s="y")]
    result = gates.evaluate(["a-b.m <= 0.2", "a-b.m[s=x] <= 0.2"], slices)
    assert [r["state"] for r in result] == ["failed", "passed"]
    assert result[0]["findings"] == {
        "a-b.m": "passed",
        "a-b.m[s=x]": "passed",
        "a-b.m[s=y]": "failed",
    }
    assert gates.unmet(result) == ["a-b.m <= 0.2 (failed by 1 of 3 findings, such as a-b.m[s=y])"]


def test_a_slice_that_was_not_tested_leaves_the_gate_undecided():
    untested = Finding("a-b", "m", {"s": "z"}, verdict="not_tested")
    assert gates.evaluate(["a-b.m <= 1"], [finding(0, 0.1), untested])[0]["state"] == "undecided"


def test_a_gate_that_names_nothing_is_an_error_with_a_suggestion():
    with pytest.raises(AuditError, match=r"names no finding; did you mean 'a-b\.metric'"):
        gates.evaluate(["a-b.metrik <= 1"], [finding(0, 0.1, "metric")])
    with pytest.raises(AuditError, match="names no finding"):
        gates.evaluate(["a-b.m[s=typo] <= 1"], [finding(0, 0.1, s="x")])
    with pytest.raises(AuditError, match="names no finding"):
        gates.evaluate(["other.m <= 1"], [finding(0, 0.1)])


def test_a_probe_that_could_test_nothing_leaves_its_gates_undecided():
    untested = Finding("a-b", "share", verdict="not_tested")
    assert gates.evaluate(["a-b.share_x <= 1"], [untested])[0]["state"] == "undecided"


def test_names_of_slices_may_hold_any_character():
    strange = finding(0, 0.1, s="JPEG, quality 50 (4:2:0) – größer")
    gate = f"{strange.id} <= 0.2"
    assert gates.evaluate([gate], [strange])[0]["state"] == "passed"


@pytest.mark.parametrize(
    ("gate", "state"),
    [
        ("change(a-b.m) <= 0.1", "passed"),
        ("change(a-b.m) >= -0.1", "failed"),
        ("abs(change(a-b.m)) <= 0.1", "failed"),
        ("abs( change( a-b.m ) ) <= 3e-1", "passed"),
        ("abs(change(a-b.m)) <= .25", "undecided"),
        ("change(a-b.m[s=x]) < -0.2", "passed"),
    ],
)
def test_a_gate_on_a_change_is_signed_unless_it_says_abs(gate: str, state: str):
    fell = finding(-0.3, -0.21, s="x")
    assert gates.evaluate_changes([gate], [fell])[0]["state"] == state


def test_an_absolute_change_whose_interval_holds_zero_begins_at_zero():
    both = finding(-0.05, 0.08)
    assert gates.evaluate_changes(["abs(change(a-b.m)) > 0"], [both])[0]["state"] == "undecided"
    assert gates.evaluate_changes(["abs(change(a-b.m)) <= 0.08"], [both])[0]["state"] == "passed"


def test_each_evaluation_takes_its_own_kind_of_gate():
    asked = ["a-b.m <= 1", "change(a-b.m) <= 1"]
    assert [r["gate"] for r in gates.evaluate(asked, [finding(0, 0.1)])] == asked[:1]
    assert [r["gate"] for r in gates.evaluate_changes(asked, [finding(0, 0.1)])] == asked[1:]


@pytest.mark.parametrize(
    "gate",
    ["", "x <= 1", "a.b = 1", "a.b <= one", "a.b <=", "a.b <= 1.2.3", "change() <= 1",
     "change(a) <= 1", "abs(a.b) <= 1", "a.b <= 0.1 <= 0.2"],
)  # fmt: skip
def test_what_is_no_gate_is_refused(gate: str):
    with pytest.raises(AuditError, match="is not of the form"):
        gates.parse(gate)

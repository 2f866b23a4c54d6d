"""Calibrations survive a file; a file that is none is refused. Many keys are corrected for."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.errors import AuditError
from safety.watermarks.calibration import (
    Calibration,
    Null,
    calibrate_statistic,
    key_of,
    load,
    save,
)
from safety.watermarks.keys import KeyNulls, adjusted, any_key, folded
from safety.watermarks.null_report import bit_report

KEY = key_of(np.ones(48, bool))


def _coins(rng: np.random.Generator, images: int, spread: float = 2.0) -> np.ndarray:
    """Overdispersed bits of clean images, shape (images, 1, 48)."""
    return rng.random((images, 1, 48)) < rng.beta(spread, spread, (images, 1, 1))


@pytest.fixture
def calibrations() -> list[Calibration]:
    rng = np.random.default_rng(0)
    decoded = _coins(rng, 200)
    matches = folded(decoded, np.ones((1, 48), bool))[:, 0]
    bits = Calibration(
        "bits", KEY, "made-up", Null.measure(matches), bit_report(decoded, np.ones(48, bool)), 3
    )
    p = rng.random(60)
    ring = calibrate_statistic("ring", "0" * 64, -np.log(p), p, "reals", ["a", "b"] * 30)
    return [bits, ring]


def test_calibrations_are_read_as_they_were_written(
    calibrations: list[Calibration], tmp_path: Path
) -> None:
    save(tmp_path / "null.json", calibrations)
    for before, after in zip(calibrations, load(tmp_path / "null.json"), strict=True):
        np.testing.assert_array_equal(before.null.values, after.null.values)
        assert before.report == after.report
        assert (before.mark, before.key, before.population, before.unreadable) == (
            after.mark,
            after.key,
            after.population,
            after.unreadable,
        )
        s = np.linspace(-1, 50, 90)
        np.testing.assert_array_equal(before.null.p(s), after.null.p(s))
    assert calibrations[0].report.nominal_refusal is not None
    assert (tmp_path / "null.json").stat().st_size < 10000


def _edit(path: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.pop("t2i_audit_calibrations"), "is no file of calibrations"),
        (lambda c: c.update(t2i_audit_calibrations=2), "version 2 of calibrations; this reads 1"),
        (lambda c: c.pop("calibrations"), "is damaged: KeyError"),
        (lambda c: c["calibrations"][0].pop("mark"), "is damaged: KeyError"),
        (lambda c: c["calibrations"][0].update(mark=7), "are texts"),
        (lambda c: c["calibrations"][0]["null"]["counts"].pop(), "is damaged"),
        (lambda c: c["calibrations"][0]["null"].update(counts=[10**12], values=[1]), "counts"),
        (lambda c: c["calibrations"][0]["null"]["counts"].__setitem__(0, -1), "counts"),
        (lambda c: c["calibrations"][0]["null"]["values"].reverse(), "do not ascend"),
        (lambda c: c["calibrations"][0]["null"]["counts"].__setitem__(0, 99), "200 images, a null"),
        (lambda c: c["calibrations"][0]["report"].update(refusal=1), "a text or null"),
        (lambda c: c["calibrations"][0]["report"].update(surprise=1), "is damaged"),
        (lambda c: c["calibrations"][0]["report"]["keys"][0].update(worst_ci=[0]), "is damaged"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused_by_name(
    change: Callable[[Any], None], said: str, calibrations: list[Calibration], tmp_path: Path
) -> None:
    path = tmp_path / "null.json"
    save(path, calibrations)
    _edit(path, change)
    with pytest.raises(AuditError, match=said) as error:
        load(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[1, 2", "[]", "null", "[" * 100000, '{"a": 1}'])
def test_what_is_no_calibration_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "no.json"
    path.write_text(content)
    with pytest.raises(AuditError, match=r"no\.json: is no "):
        load(path)
    with pytest.raises(AuditError, match="cannot be read: No such file"):
        load(tmp_path / "missing.json")


def test_among_many_keys_a_clean_image_is_accused_as_seldom_as_promised() -> None:
    """A family of 40 keys, each calibrated by itself on the same overdispersed images."""
    rng = np.random.default_rng(1)
    keys = rng.random((40, 48)) < 0.5
    clean, new = _coins(rng, 4000, 20.0), _coins(rng, 3000, 20.0)
    p = KeyNulls.measure(clean, keys).p(new)
    largest = Null.measure(folded(clean, keys).max(axis=1)).p(folded(new, keys).max(axis=1))
    accused = {
        "uncorrected": (p.min(axis=1) <= 0.05).mean(),
        "bonferroni": (any_key(p) <= 0.05).mean(),
        "sidak": (any_key(p, "sidak") <= 0.05).mean(),
        "largest": (largest <= 0.05).mean(),
    }
    assert accused["uncorrected"] > 0.5
    assert accused["bonferroni"] <= accused["sidak"] <= 0.065
    assert accused["largest"] <= 0.065
    assert accused["largest"] > 0.01


def test_a_user_is_found_among_many_on_a_marked_image() -> None:
    rng = np.random.default_rng(2)
    keys = rng.random((100, 48)) < 0.5
    nulls = KeyNulls.measure(_coins(rng, 5000, 20.0), keys)
    marked = (keys[[17, 63]] ^ (rng.random((2, 48)) < 0.05))[:, None]
    inverted = ~keys[[5]][:, None]
    p = nulls.p(np.concatenate([marked, inverted]))
    assert p.argmin(axis=1).tolist() == [17, 63, 5]
    assert (any_key(p) <= 0.05).all()
    # The same clean images for all keys support no smaller p-value than this.
    assert p.min() == 1 / 5001


def test_false_discoveries_among_accusations_stay_below_their_share() -> None:
    rng = np.random.default_rng(3)
    keys = rng.random((1, 48)) < 0.5
    shares = []
    for _ in range(40):
        nulls = KeyNulls.measure(_coins(rng, 2000), keys)
        decoded = _coins(rng, 200)
        decoded[:40] = keys[0] ^ (rng.random((40, 1, 48)) < 0.1)
        accused = adjusted(nulls.p(decoded), "benjamini-hochberg")[:, 0] <= 0.1
        assert accused[:40].all()
        shares.append(accused[40:].sum() / max(accused.sum(), 1))
    assert np.mean(shares) <= 0.1
    assert np.mean(shares) > 0.005


def test_corrections_are_their_formulas_down_to_the_smallest_p() -> None:
    p = np.array([[1e-18, 0.2, 0.9], [0.3, 0.02, 0.5]])
    np.testing.assert_allclose(any_key(p), [3e-18, 0.06])
    np.testing.assert_allclose(any_key(p, "sidak"), [3e-18, 1 - 0.98**3])
    np.testing.assert_allclose(adjusted(p), np.minimum(1, 6 * p))
    np.testing.assert_allclose(adjusted(p, "sidak")[1, 1], 1 - 0.98**6)
    assert adjusted(np.zeros((0, 3))).shape == (0, 3)
    assert any_key([[1.0, 1.0]], "sidak").tolist() == [1.0]


@pytest.mark.parametrize(
    "module", ["attacks", "calibration", "codecs", "keys", "null_report", "quality", "subjects"]
)
def test_the_examples_in_docstrings_hold(module: str) -> None:
    found = doctest.testmod(import_module(f"safety.watermarks.{module}"))
    assert found.attempted and not found.failed

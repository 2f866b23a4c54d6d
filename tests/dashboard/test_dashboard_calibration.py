"""The page of known answers shows the result of the version that made the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import suites
from audit.calibration.pool import Size
from audit.calibration.result import document
from audit.calibration.shipped import TOOLKIT, of_version, shipped
from audit.calibration.tally import Check, Effect, Outcome, Read, Tally
from audit.card import method
from audit.errors import AuditError
from dashboard import runs
from tests.dashboard.test_dashboard_pages import body, show


def result() -> dict[str, Any]:
    """400 nominal intervals of one probe, too narrow ones of another, a hostile check."""
    rng, tally = np.random.default_rng(0), Tally()
    for probe, width in (("demographics", 1.96), ("languages", 1.0)):
        effect = Effect(probe, "a <b>variant</b>", "alignment_gap", "so much")
        for number, found in enumerate(rng.normal(0, 1, 400)):
            ci = (found - width, found + width)
            tally.add([Outcome(effect, number, 0.0, float(found), ci, "within")])
    tally.add([Check("watermarks", "<script>known</script>", True, "3 of 3")])
    tally.add([Read("clip", "gender: female", "reader", np.arange(40) > 9, np.arange(40) % 4)])
    return document(tally, {}, Size("quick", 1, 1, 1))


@pytest.fixture
def made_by(run: runs.Shown, monkeypatch: pytest.MonkeyPatch) -> runs.Shown:
    info = {**run.info, "versions": {TOOLKIT: "9.9"}}
    monkeypatch.setattr(type(run), "info", property(lambda self: info))
    return run


def test_a_run_of_a_version_without_a_result_says_so(made_by: runs.Shown) -> None:
    assert "Version 9.9 of the toolkit" in body(show("calibration"))


def test_the_page_shows_the_result_escaped_and_by_probe(
    made_by: runs.Shown, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = result()
    (tmp_path / "calibration").mkdir()
    path = tmp_path / "calibration/toolkit-9.9.json"
    path.write_text(json.dumps(written))
    monkeypatch.setattr(suites, "datasets", lambda: tmp_path)
    test = show("calibration")
    shown = body(test)
    covered = written["probes"]["demographics"]["coverage"]
    assert f"{covered:.1%} of 400" in shown and "It did not pass" in shown
    assert "10 of 40" in shown and "<script>" not in shown
    assert set(test.dataframe[0].value.probe) == {"demographics", "languages"}
    assert list(test.dataframe[0].value.holds) == ["holds", "does not hold"]
    assert of_version("9.9") == written and shipped("../9.9") == path
    (said,) = method._calibration("9.9")
    assert f"{covered:.1%}" not in said.markdown and "800" in said.markdown
    path.write_text('{"schema": 1}')
    with pytest.raises(AuditError, match="is no result of t2i-audit calibrate"):
        of_version("9.9")

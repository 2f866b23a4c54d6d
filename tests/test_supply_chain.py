"""The dependencies are pinned as installed, and none in the core binds our licence."""

from __future__ import annotations

from importlib.metadata import Distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests import supply_chain


def package(folder: Path, name: str, *lines: str) -> Distribution:
    """An installed package as pip leaves it, which can be found from now on."""
    about = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    text = "\n".join(("Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines))
    (about / "METADATA").write_text(text + "\n")
    return Distribution.at(about)


def test_everything_installed_is_pinned_and_no_copyleft_is_in_the_core():
    assert supply_chain.problems() == []


def test_a_gpl_package_deep_in_the_core_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package(tmp_path, "planted-leaf", "License-Expression: GPL-3.0-only")
    package(tmp_path, "planted-root", "License-Expression: MIT", "Requires-Dist: planted-leaf")
    monkeypatch.syspath_prepend(str(tmp_path))
    groups = {"core": [Requirement("planted-root")]}
    monkeypatch.setattr(supply_chain, "project", lambda: groups)
    monkeypatch.setattr(
        supply_chain, "pinned", lambda: {"planted-root": "1.0", "planted-leaf": "2.0", "left": "1"}
    )
    assert supply_chain.problems() == [
        "planted-leaf 1.0: GPL-3.0-only in the core",
        "planted-leaf: 1.0 is installed, constraints.txt: 2.0",
        "left: in constraints.txt, and nothing needs it",
    ]


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (["Classifier: License :: OSI Approved :: GNU Affero General Public License v3"], True),
        (["License: GPLv2+"], True),
        (["License-Expression: AGPL-3.0-or-later"], True),
        (["License-Expression: LGPL-2.1-only"], False),
        (["License-Expression: MIT"], False),
        ([], False),
    ],
)
def test_licences_are_told_apart(tmp_path: Path, lines: list[str], refused: bool):
    said = supply_chain.licence(package(tmp_path, "one", *lines))
    assert bool(supply_chain.COPYLEFT.search(said.replace("LGPL", ""))) is refused

"""What the project stands on: ``python -m tests.supply_chain`` prints it and what is wrong.

Every package that the core, the extras and the dev group bring must have its version in
constraints.txt, the one that is installed, and nothing else may stand there. No package that the
core brings may be under the GPL or AGPL.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
COPYLEFT = re.compile(r"\bA?GPL|GNU (Affero )?General Public", re.IGNORECASE)
"""Not the LGPL, which lets a program be under another licence."""
OTHERS = frozenset({"pip", "t2i-audit"})
"""Have no version of their own in constraints.txt: the first is brought by venv."""


def project() -> dict[str, list[Requirement]]:
    """``core``, each extra, and ``dev`` of pyproject.toml, as requirements."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = {
        "core": document["project"]["dependencies"],
        **document["project"]["optional-dependencies"],
        "dev": document["dependency-groups"]["dev"],
    }
    return {name: [Requirement(text) for text in texts] for name, texts in listed.items()}


def closure(roots: Iterable[Requirement]) -> dict[str, Distribution]:
    """Every installed package that these need, by its canonical name; those themselves too.

    A package that is not installed here, such as one for another system, is left out.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(canonicalize_name(root.name), frozenset(root.extras)) for root in roots]
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:
            continue
        for text in found[name].requires or ():
            needed = Requirement(text)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras or {""}):
                waiting.append((canonicalize_name(needed.name), frozenset(needed.extras)))
    return found


def licence(package: Distribution) -> str:
    """What a package says of its licence, in a line; empty: nothing."""
    about = package.metadata
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in about.get_all("Classifier") or ()
        if text.startswith("License ::")
    ]
    said = about.get("License-Expression") or "; ".join(classifiers) or about.get("License") or ""
    return said.strip().splitlines()[0][:100] if said.strip() else ""


def pinned() -> dict[str, str]:
    """Package → version in constraints.txt."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, equals, version = line.partition("#")[0].strip().partition("==")
        if equals:
            found[canonicalize_name(name)] = version
    return found


def problems() -> list[str]:
    """One line for everything that is wrong; with the dev group and all its packages installed."""
    groups, wanted = project(), pinned()
    found = []
    core = closure(groups["core"])
    for name, package in sorted(core.items()):
        if COPYLEFT.search(licence(package).replace("LGPL", "")):
            found.append(f"{name} {package.version}: {licence(package)} in the core")
    everything = closure([root for roots in groups.values() for root in roots])
    for name, package in sorted(everything.items()):
        if name in OTHERS:
            continue
        if name not in wanted:
            found.append(f"{name} {package.version}: not in constraints.txt")
        elif wanted[name] != package.version:
            found.append(f"{name}: {package.version} is installed, constraints.txt: {wanted[name]}")
    known = {canonicalize_name(root.name) for roots in groups.values() for root in roots}
    for name in sorted(wanted.keys() - everything.keys() - known):
        found.append(f"{name}: in constraints.txt, and nothing needs it")
    return found


def main() -> None:
    groups = project()
    core = closure(groups["core"])
    everything = closure([root for roots in groups.values() for root in roots])
    for name, package in sorted(everything.items()):
        place = "core" if name in core else "    "
        print(f"{place}  {name} {package.version}  {licence(package) or 'says nothing'}")
    found = problems()
    for line in found:
        print(line, file=sys.stderr)
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

"""The documents say what is so: their commands are run, their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from audit.cli import cli

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
BLOCK = re.compile(r"^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")


def commands(document: str) -> list[str]:
    text = (ROOT / "docs" / document).read_text(encoding="utf-8")
    return [line for block in BLOCK.findall(text) for line in block.splitlines() if line]


def test_every_command_of_the_walkthrough_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked = commands("walkthrough.md")
    assert len(asked) >= 12
    monkeypatch.chdir(tmp_path)
    for command in asked:
        program, *arguments = shlex.split(command)
        if program == "t2i-audit":  # in this process, which has imported torch already
            result = CliRunner().invoke(cli, arguments)
            assert result.exit_code == 0, f"{command}\n{result.output}\n{result.exception}"
        else:
            subprocess.run(["bash", "-c", command], check=True, capture_output=True)


def test_every_command_about_plugins_works(tmp_path: Path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")  # a build leaves things behind
    packages = tmp_path / "packages"
    # What is installed is installed beside, not into the environment of the tests.
    beside = f"install --quiet --no-deps --no-index --no-build-isolation --target {packages} "
    program = tmp_path / "t2i-audit"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m audit.cli "$@"\n')
    program.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{packages}:{ROOT}",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    for command in commands("extending.md"):
        line = command.replace("pip install ", f"pip {beside}")
        done = subprocess.run(
            ["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path):
    text = document.read_text(encoding="utf-8")
    assert [to for to in LINK.findall(text) if not (document.parent / to).exists()] == []


def test_the_readme_names_every_command():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    names = cli.list_commands(None)  # type: ignore[arg-type]
    assert [name for name in names if f"t2i-audit {name}" not in text] == []

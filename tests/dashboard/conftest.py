"""A synthetic run and a real server on a free loopback port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from dashboard import runs
from tests.dashboard import synthetic_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that no test may change."""
    folder = tmp_path_factory.mktemp("runs") / "phantom"
    synthetic_run.build(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where this session's indexes go."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2I_AUDIT_CACHE", str(folder))
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        yield folder


@pytest.fixture(scope="session")
def instruments_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose filters and watermarks the probes analysed; no test may change it."""
    from tests.dashboard import instruments_run

    return instruments_run.build(tmp_path_factory.mktemp("instruments") / "made").path


@pytest.fixture(scope="session")
def copies_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that copies, analysed by the probe; no test may change it."""
    from tests.dashboard import instruments_run

    return instruments_run.build_copies(tmp_path_factory.mktemp("copies")).path


@pytest.fixture
def run(run_folder: Path) -> runs.Shown:
    """The run, shown by this process."""
    runs.show([run_folder])
    return next(iter(runs.shown().values()))


@dataclass
class Server:
    """A running dashboard."""

    port: int
    process: subprocess.Popen[str]

    def get(self, path: str, **headers: str) -> tuple[HTTPResponse, bytes]:
        """GET with the path exactly as given."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()


def start(*folders: Path) -> subprocess.Popen[str]:
    """The dashboard in a process of its own, on a free port."""
    code = (
        "import sys; from pathlib import Path; from dashboard.server import serve; "
        "serve([Path(p) for p in sys.argv[1:]], 0)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, folders)],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def server(run_folder: Path) -> Iterator[Server]:
    """A dashboard that shows the run; ended as Ctrl-C ends it."""
    process = start(run_folder)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = Server(int(line.split("127.0.0.1:")[1].split()[0]), process)
        for _ in range(150):
            try:
                if found.get("/_stcore/health")[0].status == 200:
                    break
            except OSError:
                time.sleep(0.1)
        yield found
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

"""Whom the dashboard lets in, and that a stranger's run can read and execute nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from click.testing import CliRunner
from starlette.applications import Starlette
from starlette.testclient import TestClient

from audit.errors import AuditError
from audit.store import Run
from dashboard import images, index, reveals, runs
from dashboard.access import Access
from dashboard.cli import view
from dashboard.table import Table
from tests.dashboard import synthetic_run
from tests.dashboard.conftest import ROOT
from tests.dashboard.test_dashboard_routes import digests, sharpness

TOKEN = "a-token-of-this-test"
SECRETS = """[auth]
redirect_uri = "http://127.0.0.1:1/oauth2callback"
cookie_secret = "0123456789abcdef0123456789abcdef"
client_id = "x"
client_secret = "y"
server_metadata_url = "http://127.0.0.1:1/none"
"""


class Guarded:
    """A dashboard in a process of its own that asks who comes."""

    def __init__(self, folder: Path, cwd: Path, access: str) -> None:
        code = (
            "import sys; from pathlib import Path; from dashboard.access import Access;"
            "from dashboard.server import serve;"
            f"serve([Path(sys.argv[1])], 0, access={access})"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            cwd=cwd,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        self.port = int(self.line.split("127.0.0.1:")[1].split("/")[0].split()[0])

    def get(self, path: str, **headers: str) -> tuple[HTTPResponse, bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="module")
def guarded(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    server = Guarded(run_folder, tmp_path_factory.mktemp("cwd"), f"Access(token={TOKEN!r})")
    yield server
    server.end()


@pytest.fixture(scope="module")
def oidc(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("oidc")
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit/secrets.toml").write_text(SECRETS)
    server = Guarded(run_folder, folder, "Access(people=['ann@example.org', '@lab.example'])")
    yield server
    server.end()


# ---- who comes in ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("access", "message"),
    [
        (Access("0.0.0.0"), "can be reached from other machines; say --token"),
        (Access("::"), "can be reached from other machines"),
        (Access("192.0.2.7"), "--login WHO"),
        (Access(token="short"), "at least 16 characters"),
        (Access(token=TOKEN, people=["@a.example"]), "choose one"),
    ],
)
def test_nobody_is_let_in_unasked(access: Access, message: str) -> None:
    with pytest.raises(AuditError, match=message):
        access.check()


def test_another_address_needs_a_token_or_an_unsafe_flag() -> None:
    for access in (Access(), Access("0.0.0.0", token=TOKEN), Access("0.0.0.0", unsafe=True)):
        access.check()


def test_the_command_refuses_another_address(run_folder: Path) -> None:
    done = CliRunner().invoke(view, [str(run_folder), "--address", "0.0.0.0", "--no-browser"])
    assert isinstance(done.exception, AuditError)
    assert "can be reached from other machines" in str(done.exception)


@pytest.mark.parametrize("path", ["/", "/gallery", "/image/0/@", "/thumb/0/@", "/_stcore/health"])
def test_without_the_token_nothing_is_given_out(guarded: Guarded, run: Run, path: str) -> None:
    path = path.replace("@", digests(run)[0])
    for tried in (path, f"{path}?token=wrong", f"{path}?token="):
        response, data = guarded.get(tried)
        assert response.status == 401
        assert b"RIFF" not in data and b"Streamlit" not in data
        assert response.headers["Referrer-Policy"] == "no-referrer"
    cookie = f"t2i-audit-{guarded.port}=guess"
    assert guarded.get(path, Cookie=cookie)[0].status == 401


def test_a_token_is_swapped_for_a_cookie_that_opens_everything(guarded: Guarded, run: Run) -> None:
    assert f"?token={TOKEN}" in guarded.line
    response, data = guarded.get(f"/gallery?probe=languages&token={TOKEN}")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert b'content="0;url=/gallery?probe=languages"' in data  # the token leaves the address
    assert TOKEN.encode() not in data
    opened = cookie.split(";")[0]
    assert guarded.get("/gallery", Cookie=opened)[0].status == 200
    assert guarded.get(f"/image/0/{digests(run)[0]}", Cookie=opened)[1].startswith(b"RIFF")
    assert guarded.get("/", Cookie=opened, Host="evil.example")[0].status == 400


def test_a_websocket_without_the_cookie_is_refused(guarded: Guarded) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": f"http://127.0.0.1:{guarded.port}",
    }
    assert guarded.get("/_stcore/stream", **upgrade)[0].status in (401, 403)


def test_a_link_from_another_site_is_followed_by_one_step_of_our_own(guarded: Guarded) -> None:
    response, data = guarded.get("/gallery", **{"Sec-Fetch-Site": "cross-site"})
    assert response.status == 200
    assert b"0;url=/gallery" in data
    assert b"Streamlit" not in data


def signed(email: str, **more: object) -> str:
    """Streamlit's login cookie as its own code signs it."""
    from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

    user = {"is_logged_in": True, "email": email, "origin": "http://127.0.0.1:1"} | more
    secret = "0123456789abcdef0123456789abcdef"
    return create_signed_value(secret, "_streamlit_user", json.dumps(user)).decode()


def test_only_people_who_are_named_come_in_by_login(oidc: Guarded, run: Run) -> None:
    image = f"/image/0/{digests(run)[0]}"
    response, _ = oidc.get("/", Accept="text/html")
    assert response.status == 302
    assert response.headers["Location"].startswith("/auth/login?provider=")
    assert oidc.get(image)[0].status == 401
    for email in ("ann@example.org", "Bob@lab.example"):
        assert oidc.get(image, Cookie=f"_streamlit_user={signed(email)}")[0].status == 200
    for email in ("eve@example.org", "eve@notlab.example", ""):
        status = oidc.get(image, Cookie=f"_streamlit_user={signed(email)}")[0].status
        assert status in (401, 403)
    forged = signed("ann@example.org")[:-2] + "xx"
    assert oidc.get(image, Cookie=f"_streamlit_user={forged}")[0].status == 401
    unsure = signed("ann@example.org", email_verified=False)
    assert oidc.get(image, Cookie=f"_streamlit_user={unsure}")[0].status == 401


# ---- reveals -----------------------------------------------------------------------------------


@pytest.fixture
def client(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    reveals._logged.clear()
    return TestClient(Starlette(routes=images.routes()))


def test_each_reveal_is_logged_once_and_only_reveals_are(client: TestClient, run: Run) -> None:
    harmless, flagged = digests(run)
    for path in (harmless, f"{harmless}?reveal=1", flagged):
        assert client.get(f"/image/0/{path}").status_code == 200
    assert not reveals.file().exists()
    for _ in range(2):
        data = client.get(f"/image/0/{flagged}?reveal=1").content
    assert data == run.image_path(flagged).read_bytes()
    [line] = reveals.file().read_text().splitlines()
    entry = json.loads(line)
    assert entry["image"] == flagged
    assert entry["run"] == str(run.path)
    assert entry["visitor"] == "testclient"
    assert entry["time"].endswith("+00:00")
    assert reveals.file().stat().st_mode & 0o077 == 0


def test_what_cannot_be_logged_stays_blurred(client: TestClient, run: Run, tmp_path: Path) -> None:
    (tmp_path / "t2i-audit").write_text("in the way")
    _, flagged = digests(run)
    data = client.get(f"/image/0/{flagged}?reveal=1").content
    assert sharpness(data) < 0.05 * sharpness(run.image_path(flagged).read_bytes())


# ---- other sites -------------------------------------------------------------------------------


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_not_ask_for_images(guarded: Guarded, run: Run, site: str) -> None:
    cookie = guarded.get(f"/?token={TOKEN}")[0].headers["Set-Cookie"].split(";")[0]
    path = f"/image/0/{digests(run)[0]}"
    response, _ = guarded.get(path, **{"Sec-Fetch-Site": site, "Cookie": cookie})
    assert response.status == 403
    own, _ = guarded.get(path, **{"Sec-Fetch-Site": "same-origin", "Cookie": cookie})
    assert own.status == 200


# ---- a stranger's run --------------------------------------------------------------------------


@pytest.fixture
def stranger(tmp_path: Path) -> Run:
    return synthetic_run.build(tmp_path / "it's [a] *run*; DROP TABLE x", images=20)


def shown(run: Run) -> runs.Shown:
    runs.show([run.path])
    return next(iter(runs.shown().values()))


def test_a_run_with_a_hostile_name_is_shown(stranger: Run) -> None:
    with shown(stranger).connect() as database:
        assert Table(database, None).outcomes()["ok"] > 0


@pytest.mark.parametrize("name", ["records/part-000099", "tables/x.y", "detections/z/part-000000"])
def test_a_table_that_is_a_link_out_of_the_run_is_refused(
    stranger: Run, tmp_path: Path, name: str
) -> None:
    secret = tmp_path / "secret.parquet"
    pd.DataFrame({"request": ["secret"]}).to_parquet(secret)
    link = stranger.path / f"{name}.parquet"
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(secret)
    with pytest.raises(AuditError, match="leads out of the run"), shown(stranger).connect():
        pass


def test_documents_that_are_links_or_pipes_are_refused(stranger: Run, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text('{"password": 1}')
    for name, make in (
        ("energy.json", lambda path: path.symlink_to(tmp_path / "secret.json")),
        ("gates.json", lambda path: os.mkfifo(path)),
        ("detectors.json", lambda path: path.symlink_to("/dev/zero")),
    ):
        path = stranger.path / name
        path.unlink(missing_ok=True)
        make(path)
        with pytest.raises(AuditError, match="refused"):
            stranger.read_json(name)


def test_names_of_views_columns_and_folders_are_no_sql(stranger: Run) -> None:
    row = stranger.read_table("records").iloc[0]
    column = 'score"; DROP VIEW records; --'
    frame = pd.DataFrame([{"request": row.request, "image": row.image, column: 0.5}])
    stranger.write_part('detections/a"; DROP VIEW requests; --', 0, frame)
    stranger.write_table("tables/x'); COPY (SELECT 1) TO 'out.csv'; --", frame)
    frame = stranger.read_table("uses/languages").assign(**{'tag" OR 1=1 --': "a"})
    stranger.write_table("uses/languages", frame)
    with shown(stranger).connect() as database:
        table = Table(database, "languages")
        score = next(name for name in table.scores if "DROP" in name)
        assert len(table.page([score, "prompt"], [], score)) == len(frame)
        assert table.options('tag" OR 1=1 --') == ["a"]
    assert not Path("out.csv").exists()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_parquet('{outside}')",
        "COPY (SELECT 1) TO '{outside}.csv'",
        "ATTACH '{outside}.duckdb'",
        "SET enable_external_access = true",
        "SET memory_limit = '100GB'",
        "INSTALL httpfs",
        "DROP TABLE idx.images",
    ],
)
def test_no_query_reads_or_writes_outside_the_run(run: Run, tmp_path: Path, query: str) -> None:
    outside = tmp_path / "outside.parquet"
    pd.DataFrame({"a": [1]}).to_parquet(outside)
    with run.connect() as database, pytest.raises(duckdb.Error):
        database.execute(query.format(outside=outside))


def test_a_table_of_absurd_size_ends_in_one_line(
    stranger: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Millions of rows in a file of a few kilobytes."""
    monkeypatch.setattr(index, "MOST", 1_000_000)
    path = stranger.path / "plan.parquet"
    with duckdb.connect() as database:
        database.execute(
            "COPY (SELECT 'r' AS request, 'p' AS prompt, 0 AS batch, 0 AS slot "
            f"FROM range(3_000_000)) TO '{str(path).replace(chr(39), chr(39) * 2)}' "
            "(FORMAT parquet, ROW_GROUP_SIZE 1000000)"
        )
    with pytest.raises(AuditError, match="shows at most"), shown(stranger).connect():
        pass


def test_a_question_that_takes_too_long_is_ended(
    run: runs.Shown, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "LIMIT", 0.3)
    with pytest.raises(AuditError, match="took longer"), run.connect() as database:
        database.execute(
            "SELECT sum(hash(a.range + b.range)) FROM range(10000000) a, range(10000000) b"
        )


def test_damaged_parquet_is_one_line(stranger: Run) -> None:
    (stranger.path / "detections/clip/part-000001.parquet").write_bytes(
        b"PAR1" + b"\0" * 60 + b"PAR1"
    )
    with pytest.raises(AuditError, match="is damaged"), shown(stranger).connect():
        pass


def test_a_run_that_cannot_be_written_is_shown_and_left_as_it_is(stranger: Run) -> None:
    before = {path: path.stat().st_mtime_ns for path in stranger.path.rglob("*")}
    with shown(stranger).connect() as database:
        assert Table(database, "languages").page(["prompt"], [])
    assert {path: path.stat().st_mtime_ns for path in stranger.path.rglob("*")} == before
    assert index.file_of(stranger).stat().st_mode & 0o077 == 0

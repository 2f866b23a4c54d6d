"""What the server gives out, to whom, and what it keeps back."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image, ImageStat

from audit.errors import AuditError
from audit.store import Run
from dashboard import images, runs
from dashboard.cli import view
from dashboard.server import serve
from tests.dashboard import synthetic_run
from tests.dashboard.conftest import ROOT, Server


def digests(run: Run) -> tuple[str, str]:
    """An image that no filter flagged, and one that the safety checker flagged."""
    rows = run.read_table("detections/safety-checker")
    return rows.image[~rows.flagged].iloc[0], rows.image[rows.flagged].iloc[0]


def pixels(data: bytes, size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB").resize(size)


def sharpness(data: bytes) -> float:
    """The variance of neighbouring pixels' differences: edges make it large."""
    grey = pixels(data).convert("L")
    moved = Image.new("L", grey.size)
    moved.paste(grey, (1, 0))
    left, right = grey.crop((1, 0, 64, 64)), moved.crop((1, 0, 64, 64))
    differences = [a - b for a, b in zip(left.tobytes(), right.tobytes(), strict=True)]
    return sum(d * d for d in differences) / len(differences)


def test_an_image_of_the_run_is_served_with_its_own_bytes(server: Server, run: Run) -> None:
    digest, _ = digests(run)
    response, data = server.get(f"/image/0/{digest}")
    assert response.status == 200
    assert data == run.image_path(digest).read_bytes()
    assert response.headers["Content-Type"] == "image/webp"
    assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"].startswith("private")
    assert "Access-Control-Allow-Origin" not in response.headers


def test_a_thumbnail_is_not_the_image(server: Server, run: Run) -> None:
    digest, _ = digests(run)
    data = server.get(f"/thumb/0/{digest}")[1]
    assert data == run.image_path(digest, thumbnail=True).read_bytes()


def test_a_training_image_of_a_pair_is_served(server: Server, run: Run) -> None:
    match = run.read_table("tables/memorization.neighbours").match.iloc[0]
    assert server.get(f"/image/0/{match}")[0].status == 200


@pytest.mark.parametrize(
    "path",
    [
        f"/image/0/{'0' * 64}",
        "/image/7/@",
        "/image/-1/@",
        "/image/0/../../run.json",
        "/image/0/..%2f..%2frun.json",
        "/image/0/%2e%2e%2f%2e%2e%2frun.json",
        "/image/0/@%00",
        "/image/0/@/../../../run.json",
        "/thumb/0/@.webp",
        "/image/0//etc/passwd",
        "/document/0/run.json",
        "/document/0/..%2frun.json",
        "/document/0/..%2f..%2fphantom%2frun.json",
        "/document/9/card.html",
    ],
)
def test_anything_that_is_no_known_id_is_refused(server: Server, run: Run, path: str) -> None:
    response, data = server.get(path.replace("@", digests(run)[0]))
    assert response.status in (400, 403, 404) or b"<title>Streamlit</title>" in data
    assert b"schema_version" not in data
    assert not data.startswith(b"RIFF")


def test_an_image_on_disk_that_is_in_no_record_is_not_served(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    stray = run.save_image(Image.new("RGB", (8, 8), "red"))
    runs.show([run.path])
    assert images.known_images(runs.shown()["run"]).get(stray) is None


def test_a_link_that_leads_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path = run.path / "card/card.html"
    path.unlink()
    path.symlink_to(secret)
    assert runs.inside(run, path) is None


def test_a_flagged_image_leaves_the_server_blurred(server: Server, run: Run) -> None:
    harmless, flagged = digests(run)
    for kind in ("image", "thumb"):
        hidden = server.get(f"/{kind}/0/{flagged}")[1]
        shown = server.get(f"/{kind}/0/{flagged}?reveal=1")[1]
        assert shown == run.image_path(flagged, thumbnail=kind == "thumb").read_bytes()
        assert sharpness(hidden) < 0.05 * sharpness(shown)
        for trick in ("?reveal=0", "?reveal=", "?reveal=true", "?x=1"):
            assert server.get(f"/{kind}/0/{flagged}{trick}")[1] == hidden
    assert sharpness(server.get(f"/image/0/{harmless}")[1]) > 100


def test_blurring_leaves_the_ground_colour(server: Server, run: Run) -> None:
    _, flagged = digests(run)
    hidden = server.get(f"/image/0/{flagged}")[1]
    shown = server.get(f"/image/0/{flagged}?reveal=1")[1]
    means = [ImageStat.Stat(pixels(data)).mean for data in (hidden, shown)]
    assert all(abs(a - b) < 40 for a, b in zip(*means, strict=True))


@pytest.mark.parametrize("column", ["flagged", "bare_flagged", "nsfw", "p_unsafe"])
def test_any_filter_that_flags_hides_the_image_and_its_training_image(
    tmp_path: Path, column: str
) -> None:
    run = synthetic_run.build(tmp_path / "run", images=20)
    pair = run.read_table("tables/memorization.neighbours").iloc[0]
    runs.show([run.path])
    known = images.known_images(runs.shown()["run"])
    assert known.get(pair.image) is False
    value = True if column.endswith("flagged") else 0.5
    frame = pd.DataFrame([{"request": pair.request, "image": pair.image, column: value}])
    run.write_part("detections/another-filter", 0, frame)
    assert known.get(pair.image)  # the run has grown: it is read again
    assert known.get(pair.match)


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", ""])
def test_a_foreign_host_is_refused(server: Server, run: Run, host: str) -> None:
    for path in (f"/image/0/{digests(run)[0]}", "/", "/_stcore/health"):
        assert server.get(path, Host=host)[0].status == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:1", "null"])
def test_a_foreign_origin_is_refused_also_for_the_websocket(server: Server, origin: str) -> None:
    assert server.get("/_stcore/health", Origin=origin)[0].status == 403
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    assert server.get("/_stcore/stream", Origin=origin, **upgrade)[0].status == 403
    own = f"http://127.0.0.1:{server.port}"
    assert server.get("/_stcore/health", Origin=own)[0].status == 200


def test_the_card_may_run_no_script_and_load_nothing(server: Server) -> None:
    response, data = server.get("/document/0/card.html")
    assert b"Model card" in data
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox;")
    assert "allow-scripts" not in policy
    assert "default-src 'none'" in policy


def test_pages_may_load_nothing_from_elsewhere(server: Server) -> None:
    policy = server.get("/")[0].headers["Content-Security-Policy"]
    assert f"connect-src 'self' ws://127.0.0.1:{server.port} wss://" in policy
    assert not re.search(r"https?:|\*", policy)


def test_it_listens_on_loopback_only(server: Server) -> None:
    wanted = f"{server.port:04X}"
    tables = [Path(f"/proc/net/{name}") for name in ("tcp", "tcp6")]
    if not tables[0].exists():
        pytest.skip("no /proc/net")
    rows = [
        line.split()
        for table in tables
        if table.exists()
        for line in table.read_text().splitlines()[1:]
    ]
    listening = [row[1] for row in rows if row[3] == "0A" and row[1].endswith(f":{wanted}")]
    assert listening == [f"0100007F:{wanted}"]


def test_a_taken_port_is_one_clear_line(run_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AuditError, match=f"127.0.0.1:{port} is in use; choose another --port"):
            serve([run_folder], port)


def test_a_folder_that_is_no_run_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"is not a run: it has no run\.json"):
        serve([tmp_path], 0)
    assert isinstance(CliRunner().invoke(view, [str(tmp_path)]).exception, AuditError)


def test_the_dashboard_imports_no_torch() -> None:
    code = (
        "import sys, dashboard.server, dashboard.cli, dashboard.images, dashboard.views.overview,"
        "dashboard.views.gallery, dashboard.views.memorization, dashboard.views.card;"
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_costs_no_heavy_import() -> None:
    code = "import sys, dashboard.cli; print('streamlit' in sys.modules, 'duckdb' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


def test_the_server_starts_without_what_only_pages_need(run_folder: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom dashboard.server import application\n"
        f"application([Path({str(run_folder)!r})])\n"
        "print([m for m in ('torch', 'pandas', 'altair', 'pyarrow', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_charts_bring_no_grammar_of_addresses() -> None:
    code = (
        "import sys, dashboard.charts\n"
        "print([m for m in ('altair', 'jsonschema', 'lark', 'rfc3987_syntax') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "['altair', 'jsonschema']"

"""The same seeds side by side, their differences, and what never leaves the server."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from streamlit.testing.v1 import AppTest

from audit import evidence
from audit.store import Run
from dashboard import difference, lens, means, runs
from tests.dashboard import explorer_run
from tests.dashboard.conftest import Server, start
from tests.dashboard.test_dashboard_pages import body, show


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("explored")
    explorer_run.build(folder / "first", 0.7)
    explorer_run.build(folder / "second", 0.4, guidance=1.5)
    return [folder / "first", folder / "second"]


@pytest.fixture(scope="module")
def client(folders: list[Path]) -> Iterator[Server]:
    with serving(*folders) as opened:
        yield opened


@contextmanager
def serving(*folders: Path) -> Iterator[Server]:
    process = start(*folders)
    try:
        assert process.stdout is not None
        port = process.stdout.readline().split("127.0.0.1:")[1].split()[0]
        yield Server(int(port), process)
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), int)


@pytest.fixture
def run(folders: list[Path]) -> Run:
    runs.show(folders[:1])
    return Run.open(folders[0])


def tiles(test: AppTest) -> list[list[str | None]]:
    """The images of the sheet, a list for each row; ``None`` where there is none."""
    [sheet] = re.findall(r'<div class="t2i-scroll t2i-sheet".*?</table>', body(test), re.DOTALL)
    rows = []
    for row in re.findall(r"<tr>(.*?)</tr>", sheet.partition("<tbody>")[2], re.DOTALL):
        cells = re.findall(r"<td>(.*?)</td>", row, re.DOTALL)
        found = [re.search(r'src="/(?:thumb|image)/\d+/([0-9a-f]{64})', cell) for cell in cells]
        rows.append([match and match[1] for match in found])
    return rows


def heads(test: AppTest) -> list[str]:
    found = re.findall(r'<th scope="col"><b>(.*?)</b>', body(test))
    return [html.unescape(head) for head in found]


def expected(run: Run, probe: str, seeds: list[int], **tags: str) -> list[str | None]:
    """The images of some seeds, asked of the run's tables by pandas."""
    rows = evidence.select(evidence.table(run, probe), tags)
    by_seed = rows.drop_duplicates("seed").set_index("seed").image
    return [by_seed[seed] if isinstance(by_seed[seed], str) else None for seed in seeds]


def test_a_row_is_a_seed_and_a_column_an_identity(run: Run) -> None:
    test = show("side_by_side", vary="Identity inserted", of="judge")
    assert heads(test) == ["not named", "dark_skin", "woman"]
    found = list(zip(*tiles(test), strict=True))
    for column, (arm, identity) in zip(
        found, [("base", ""), ("identity", "dark_skin"), ("identity", "woman")], strict=True
    ):
        tags = {"subject": "judge", "template": "main", "arm": arm, "identity": identity}
        assert list(column) == expected(run, "demographics", list(range(6)), **tags)
    assert None in found[1]
    assert "failed: out of memory" in body(test)


def test_languages_stand_beside_english_which_comes_first(run: Run) -> None:
    test = show("side_by_side", vary="Languages", of="nurse")
    assert heads(test) == ["en", "ru", "sw", "tr"]
    for column, language in zip(zip(*tiles(test), strict=True), heads(test), strict=True):
        tags = {"key": "nurse", "language": language}
        assert list(column) == expected(run, "languages", list(range(6)), **tags)


def test_guidance_and_steps_are_columns(run: Run) -> None:
    test = show("side_by_side", vary="Guidance and steps", of="a red cube")
    assert heads(test)[:3] == [
        "guidance 1.5 · steps 10",
        "guidance 1.5 · steps 20",
        "guidance 3 · steps 10",
    ]
    rows = evidence.table(run, "quality")
    rows = rows[(rows.prompt == "a red cube") & (rows.guidance == 3) & (rows.steps == 10)]
    column = [row[2] for row in tiles(test)]
    assert column == list(rows.sort_values("seed").image)


def test_the_scores_below_are_those_of_the_images(run: Run) -> None:
    test = show("side_by_side", vary="Languages", of="nurse", columns="sw")
    shown = re.findall(r"clip alignment</span> <b>([^<]*)</b>", body(test))
    rows = evidence.table(run, "languages")
    rows = rows[(rows.key == "nurse") & (rows.language == "sw")].sort_values("seed")
    assert shown == [f"{value:.3g}" for value in rows.clip_alignment[:6]]
    [mean] = re.findall(r"mean here: clip alignment ([\d.]+)", body(test))
    assert mean == f"{rows.clip_alignment[:6].mean():.3g}"


def test_only_what_has_two_variants_is_offered(run: Run) -> None:
    test = show("side_by_side", vary="Identity inserted")
    subject = next(box for box in test.selectbox if box.label == "Subject")
    assert subject.options == ["chef", "judge"]
    vary = next(box for box in test.selectbox if box.label == "What varies")
    assert vary.options == [
        "Identity inserted",
        "Occupations and traits",
        "Wordings",
        "Languages",
        "Guidance and steps",
    ]


def test_two_runs_are_matched_by_prompt_and_seed(folders: list[Path]) -> None:
    runs.show(folders)
    test = show("side_by_side", vary="Runs", of="a portrait of a judge")
    assert heads(test) == ["first", "second"]
    tags = {"subject": "judge", "template": "main", "arm": "base"}
    for column, folder in zip(zip(*tiles(test), strict=True), folders, strict=True):
        assert list(column) == expected(Run.open(folder), "demographics", list(range(6)), **tags)


def test_runs_are_held_against_each_other_at_their_own_settings(folders: list[Path]) -> None:
    runs.show(folders)
    test = show("side_by_side", vary="Runs", of="a red cube")
    rows = re.findall(
        r'<th scope="row"><small>seed</small>(\d+)(?:<small>(.*?)</small>)?', body(test)
    )
    assert len(rows) == 3 * 7
    assert rows[:3] == [
        ("0", ""),
        ("0", "guidance 1.5 · steps 10"),
        ("0", "guidance 1.5 · steps 20"),
    ]
    found = dict(zip(rows, tiles(test), strict=True))
    for place, own in ((0, 3.0), (1, 1.5)):  # the guidance of either run
        table = evidence.table(Run.open(folders[place]), "quality")
        table = table[(table.prompt == "a red cube") & (table.steps == 20)]
        for seed in ("0", "1", "2"):
            mine = table[(table.seed == int(seed)) & (table.guidance == own)]
            assert found[seed, ""][place] == mine.image.iloc[0]
            same = table[(table.seed == int(seed)) & (table.guidance == 8)]
            assert found[seed, "guidance 8 · steps 20"][place] == same.image.iloc[0]


def test_the_prompts_of_a_finding_alone_are_offered(folders: list[Path]) -> None:
    runs.show(folders)
    name = "demographics.share_female_presenting[subject=judge]"
    test = show("side_by_side", vary="Runs", finding=name)
    prompt = next(box for box in test.selectbox if box.label == "Prompt")
    assert prompt.options == ["a portrait of a judge"]


def test_the_mean_difference_is_that_of_the_pixels(run: Run) -> None:
    test = show(
        "side_by_side", vary="Identity inserted", of="judge", show="Difference × 4", columns="woman"
    )
    assert "mean difference" not in body(test)  # one column has nothing to be held against
    test = show("side_by_side", vary="Identity inserted", of="judge", show="Difference × 4")
    shown = [float(v) for v in re.findall(r"mean difference</span> <b>([\d.]+)%", body(test))]
    images = {}
    for identity in ("", "dark_skin", "woman"):
        tags = {"subject": "judge", "template": "main", "identity": identity}
        images[identity] = expected(run, "demographics", list(range(6)), **tags)
    wanted = []
    for base, *others in zip(*images.values(), strict=True):
        for other in others:
            if base is not None and other is not None:
                pixels = [np.asarray(run.load_image(d), float) for d in (other, base)]
                wanted.append(100 * np.abs(pixels[0] - pixels[1]).mean() / 255)
    assert shown == [round(value, 2) for value in wanted]


def test_the_difference_as_it_is_served(client: Server, folders: list[Path]) -> None:
    run, other = map(Run.open, folders)
    rows = evidence.select(evidence.table(run, "quality"), {"prompt": "a red cube"})
    one, two = rows.image.iloc[0], evidence.table(other, "quality").image.iloc[-1]
    for gain in (1, 4):
        response, content = client.get(f"/difference/0/{one}/1/{two}?gain={gain}")
        assert response.status == 200
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        first, second = (np.asarray(i, int) for i in (run.load_image(one), other.load_image(two)))
        wanted = np.minimum(255, gain * np.abs(first - second))
        assert np.abs(pixels(content) - wanted).max() <= 1
    assert pixels(client.get(f"/difference/0/{one}/0/{one}?gain=16")[1]).max() == 0


def flagged_and_clean(run: Run) -> tuple[str, str]:
    rows = evidence.table(run, "demographics")
    pilots = rows[(rows.subject == "pilot") & (rows.arm == "base")]
    mark = pilots.safety_checker_flagged.astype(bool)
    return str(pilots[mark].image.iloc[0]), str(pilots[~mark].image.iloc[0])


def test_the_difference_of_a_flagged_image_shows_nothing_of_it(
    client: Server, folders: list[Path], cache: Path
) -> None:
    flagged, clean = flagged_and_clean(Run.open(folders[0]))
    for one, two in ((flagged, clean), (clean, flagged), (flagged, flagged)):
        found = pixels(client.get(f"/difference/0/{one}/0/{two}?gain=16")[1])
        assert (found == found[0, 0]).all()  # one colour, whatever the images are
    log = cache / "state/t2i-audit/reveals.jsonl"
    assert not log.exists() or flagged not in log.read_text()
    found = pixels(client.get(f"/difference/0/{flagged}/0/{clean}?gain=16&reveal=1")[1])
    assert not (found == found[0, 0]).all()
    assert log.read_text().count(flagged) == 1
    assert clean not in log.read_text()


def test_the_page_says_that_a_flagged_difference_is_hidden(run: Run) -> None:
    parameters = {"vary": "Occupations and traits", "of": "occupation", "show": "Difference × 1"}
    columns: Any = {"columns": ["doctor", "pilot"]}
    test = show("side_by_side", **parameters, **columns)
    hidden = body(test).count("the difference would show it")
    assert hidden == 2  # seeds 0 and 4
    revealed = show("side_by_side", **parameters, **columns, reveal="true")
    assert "the difference would show it" not in body(revealed)
    assert body(revealed).count("&amp;reveal=1") == 6


@pytest.mark.parametrize(
    "path",
    [
        "/difference/0/{0}/0/" + "0" * 64,
        "/difference/0/" + "f" * 64 + "/0/{0}",
        "/difference/7/{0}/0/{0}",
        "/difference/0/{0}/0/..%2f..%2frun.json",
        "/difference/0/{0}/0/{0}?gain=1000",
        "/difference/0/{0}/0/{0}?gain=x",
        "/mean/7/demographics?subject=judge",
        "/mean/0/nothing?subject=judge",
        "/mean/0/demographics?subject=nobody",
        "/mean/0/..%2f..?subject=judge",
    ],
)
def test_what_is_not_of_the_run_is_not_served(
    client: Server, folders: list[Path], path: str
) -> None:
    image = evidence.table(Run.open(folders[0]), "quality").image.iloc[0]
    assert client.get(path.format(image))[0].status in (400, 404)


def test_the_routes_refuse_a_foreign_host(client: Server, folders: list[Path]) -> None:
    image = evidence.table(Run.open(folders[0]), "quality").image.iloc[0]
    for path in (f"/difference/0/{image}/0/{image}", "/mean/0/demographics?subject=judge"):
        assert client.get(path, Host="evil.example")[0].status == 400
        assert client.get(path, Origin="http://evil.example")[0].status == 403


def test_an_image_that_is_a_link_out_of_the_run_is_not_compared(tmp_path: Path) -> None:
    run = explorer_run.build(tmp_path / "run")
    image = evidence.table(run, "quality").image.iloc[0]
    run.image_path(image).rename(tmp_path / "outside.webp")
    run.image_path(image).symlink_to(tmp_path / "outside.webp")
    with serving(run.path) as client:
        assert client.get(f"/difference/0/{image}/0/{image}")[0].status == 404


def test_images_of_two_sizes_are_compared_at_the_first_ones() -> None:
    large, small = Image.new("RGB", (8, 6), "white"), Image.new("RGB", (4, 3), "black")
    found = difference.absolute(large, small)
    assert found.shape == (6, 8, 3)
    assert found.min() == found.max() == 1.0


def test_the_mean_picture_is_the_mean_of_the_images_that_are_not_flagged(
    client: Server, folders: list[Path]
) -> None:
    run = Run.open(folders[0])
    rows = evidence.table(run, "demographics")
    rows = rows[(rows.subject == "pilot") & (rows.arm == "base")]
    clean = rows[~rows.safety_checker_flagged.astype(bool)]
    assert 0 < len(clean) < len(rows)
    response, content = client.get("/mean/0/demographics?subject=pilot&arm=base")
    assert response.headers["content-type"].startswith("image/svg+xml")
    assert f"mean of {len(clean)} images" in content.decode()
    thumbs = [
        np.asarray(Image.open(run.image_path(d, thumbnail=True)).convert("RGB"), float)
        for d in clean.image
    ]
    colour = "#" + "".join(f"{round(v):02x}" for v in np.mean(thumbs, axis=(0, 1, 2)))
    assert f"mean colour {colour}" in content.decode()


def test_faces_are_laid_over_each_other() -> None:
    picture = Image.new("RGB", (100, 100), "black")
    picture.paste((200, 100, 50), (60, 20, 80, 40))
    cut = means.face(picture, (0.6, 0.2, 0.2, 0.2))
    assert cut.size == (30, 30)
    assert cut.getpixel((15, 15)) == (200, 100, 50)
    assert cut.getpixel((1, 1)) == (0, 0, 0)


@pytest.mark.parametrize(
    "parameters",
    [
        {"vary": "x'; DROP VIEW records; --"},
        {"vary": "Languages", "of": "<script>"},
        {"vary": "Languages", "columns": "nothing", "scores": "nothing"},
        {"page": "999"},
        {"zoom": "<script>"},
        {"zoom": "1e999_0_0"},
        {"show": "Difference × 1000"},
    ],
)
def test_bad_values_in_the_address_are_no_traceback(run: Run, parameters: dict[str, str]) -> None:
    test = show("side_by_side", **parameters)
    assert "<script" not in body(test)


def test_a_zoomed_link_asks_for_whole_images(run: Run) -> None:
    test = show("side_by_side", vary="Languages", zoom="4_-1_-1")
    assert 'src="/image/0/' in body(test)
    assert 'src="/thumb/0/' not in body(test)
    assert lens.wanted("4_-1_-1") == (4.0, -1.0, -1.0)


def test_hostile_subjects_are_text(run: Run) -> None:
    test = show("side_by_side", vary="Occupations and traits")
    assert "<script" not in body(test)
    assert "&lt;script&gt;" in body(test)


def test_a_run_of_one_variant_says_so(tmp_path: Path) -> None:
    from tests.dashboard import synthetic_run

    synthetic_run.build(tmp_path / "run", images=10)
    runs.show([tmp_path / "run"])
    test = show("side_by_side")
    assert "No prompt of this run has two variants" in body(test) or tiles(test)

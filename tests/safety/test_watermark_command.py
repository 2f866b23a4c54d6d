"""``t2i-audit watermark`` on real files: marked, signed, black, small, broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from audit.errors import AuditError
from safety.commands.watermark import watermark
from safety.watermarks import c2pa
from safety.watermarks.calibration import load
from safety.watermarks.codecs import InvisibleWatermark
from safety.watermarks.presets import stable_diffusion_v1, stable_diffusion_xl
from tests.safety.certificates import Authority, authority
from tests.safety.clean import crops


def _run(*arguments: object) -> Result:
    result = CliRunner().invoke(watermark, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, AuditError | SystemExit):
        raise result.exception
    return result


def _json(*arguments: object) -> dict:
    return json.loads(_run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def root() -> Authority:
    return authority("A root")


@pytest.fixture(scope="module")
def folder(root: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file of each kind."""
    made = tmp_path_factory.mktemp("files")
    photo = crops(1)[0]
    (made / "sub").mkdir()
    photo.save(made / "clean.png")
    stable_diffusion_v1().embed(photo).save(made / "sub" / "v1.PNG")
    stable_diffusion_xl().embed(photo).save(made / "xl.webp", lossless=True)
    InvisibleWatermark("mine", b"own!", "dwtDctSvd").embed(photo).save(made / "mine.png")
    Image.new("RGB", (256, 256)).save(made / "black.jpg")
    photo.resize((64, 64)).save(made / "small.png")
    (made / "broken.png").write_bytes((made / "clean.png").read_bytes()[:5000])
    (made / "notes.txt").write_text("no image")
    keys = tmp_path_factory.mktemp("keys")
    signer = c2pa.Signer.load(*authority("A signer", root).write(keys))
    (made / "signed.png").write_bytes(signer.sign((made / "sub" / "v1.PNG").read_bytes()))
    return made


def test_check_answers_for_every_image_of_a_folder(folder: Path) -> None:
    document = _json("check", folder)
    answers = {Path(one["file"]).name: one for one in document["answers"]}
    assert {name: one["outcome"] for name, one in answers.items()} == {
        "black.jpg": "black",
        "broken.png": "unreadable",
        "clean.png": "ok",
        "mine.png": "ok",
        "signed.png": "ok",
        "small.png": "small",
        "v1.PNG": "ok",
        "xl.webp": "ok",
    }
    found = {name: one["found"] for name, one in answers.items() if one.get("found")}
    assert found == {"signed.png": ["sd-v1"], "v1.PNG": ["sd-v1"], "xl.webp": ["sdxl"]}
    assert document["outcomes"] == {"ok": 5, "black": 1, "unreadable": 1, "small": 1}
    assert document["expected_false_alarms"] == pytest.approx(5e-6)
    mark = next(m for m in answers["v1.PNG"]["marks"] if m["mark"] == "sd-v1")
    assert (mark["kind"], mark["domain"], mark["inverted"]) == ("nominal", "uint8", False)
    # Two domains, two polarities, three marks.
    assert mark["corrected_p"] == pytest.approx(3 * mark["nominal_p"])
    assert mark["adjusted_p"] >= mark["corrected_p"]
    assert answers["broken.png"]["reason"]


def test_check_says_what_the_c2pa_manifest_says(
    folder: Path, root: Authority, tmp_path: Path
) -> None:
    signed = folder / "signed.png"
    (answer,) = _json("check", signed)["answers"]
    assert answer["c2pa"]["state"] == "Valid"
    assert answer["c2pa"]["codes"] == ["signingCredential.untrusted"]
    assert answer["c2pa"]["generated"] is True
    (tmp_path / "root.pem").write_bytes(root.pem)
    said = _run("check", signed, "--trust", tmp_path / "root.pem").stdout
    assert "C2PA Trusted, signed by A signer, says trainedAlgorithmicMedia" in said
    assert "sd-v1 (" in said and "nominal" in said


def test_an_ordinary_program_takes_the_manifest_and_leaves_the_mark(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "again.png").write_bytes(c2pa.resaved((folder / "signed.png").read_bytes()))
    (answer,) = _json("check", tmp_path / "again.png")["answers"]
    assert answer["c2pa"]["state"] == "ManifestNotFound"
    assert answer["found"] == ["sd-v1"]


def test_marks_of_the_users_own_are_looked_for(folder: Path, tmp_path: Path) -> None:
    marks = tmp_path / "marks.yaml"
    marks.write_text(
        "- {method: dwtDctSvd, message: own!, name: mine}\n"
        "- {method: stable-signature, bits: '01', model: nowhere.onnx}\n"
    )
    document = _json("check", "--marks", marks, folder / "mine.png", folder / "clean.png")
    assert [one["found"] for one in document["answers"]] == [["mine"], []]
    assert "no model file nowhere.onnx" in document["left_out"]["stable-signature"]


def test_a_line_for_people_says_outcome_and_smallest_p(folder: Path) -> None:
    said = _run("check", folder).stdout
    for line in (
        "black.jpg: black, nothing to decode; no C2PA manifest",
        "small.png: too small for these marks",
        "clean.png: no known mark (smallest p ",
        "broken.png: unreadable: ",
        "8 files (",
        "calibrate",
    ):
        assert line in said


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty clean images and a broken one."""
    made = tmp_path_factory.mktemp("clean")
    for number, image in enumerate(crops(40, seed=1)):
        image.save(made / f"{number:02}.png", compress_level=1)
    (made / "broken.png").write_bytes(b"x")
    return made


def test_a_calibration_is_written_and_used_by_check(
    folder: Path, clean: Path, tmp_path: Path
) -> None:
    out = tmp_path / "null.json"
    document = _json("calibrate", clean, "--out", out, "--population", "photographs")
    assert document["files"] == 41 and list(document["unreadable"]) == [str(clean / "broken.png")]
    assert {one["mark"]: one["images"] for one in document["marks"]} == dict.fromkeys(
        ("sd-v1", "sd-v2", "sdxl"), 40
    )
    assert [one.population for one in load(out)] == ["photographs"] * 3

    # 41 × 3 tests support a rate of 0.1, and not one of 1e-6.
    rough = _json("check", "--calibration", out, "--fpr", 0.1, folder / "sub")
    for mark in rough["answers"][0]["marks"]:
        assert mark["kind"] == "calibrated" and mark["note"] == "of photographs"
        assert mark["found"] is (mark["mark"] == "sd-v1")
    strict = _json("check", "--calibration", out, folder / "sub")
    mark = strict["answers"][0]["marks"][0]
    assert mark["kind"] == "nominal" and mark["calibrated_p"] == pytest.approx(1 / 41)
    assert "40 clean images support no rate below 0.024" in mark["note"]


def test_what_clean_images_read_as_much_is_no_mark_whatever_the_nominal_p_says(
    folder: Path, clean: Path, tmp_path: Path
) -> None:
    """Photographs have plain areas, whose bits are all alike: a key of zeros fires on many."""
    marks, out = tmp_path / "marks.yaml", tmp_path / "null.json"
    marks.write_text(f"- {{method: dwtDct, bits: '{'0' * 48}', name: zeros}}\n")
    (nominal,) = _json("check", "--marks", marks, clean)["found"].items()
    assert nominal[0] == "zeros" and nominal[1] > 10
    made = _json("calibrate", clean, "--out", out, "--marks", marks)["marks"][0]
    assert made["nominal_refusal"] is not None
    checked = _json("check", "--marks", marks, "--calibration", out, clean)
    assert checked["found"] == {}
    seen = [m for a in checked["answers"] for m in a.get("marks", ()) if m["nominal_p"] < 1e-6]
    assert len(seen) == nominal[1]
    for mark in seen:
        assert mark["kind"] == "nominal" and mark["p"] == mark["calibrated_p"] > 1 / 41
        assert "of 40 clean images read as much" in mark["note"]
        assert "the nominal p-value does not hold" in mark["note"]


def test_a_calibration_in_words_says_promised_and_realised(clean: Path, tmp_path: Path) -> None:
    said = _run("calibrate", clean, "--out", tmp_path / "n.json", "--mark", "sd-v2").stdout
    assert "sd-v2: 40 clean images of clean" in said
    assert "nominal, promised → realised: 0.05 → " in said
    assert "1000 random keys at 0.001: mean " in said
    assert "1 files could not be read" in said


@pytest.mark.parametrize("rate", ["nan", "inf", "0", "0.9"])
def test_a_rate_that_is_none_is_refused(clean: Path, rate: str) -> None:
    result = _run("check", "--fpr", rate, clean)
    assert result.exit_code == 2
    assert "--fpr" in result.output and "Traceback" not in result.output


def test_robustness_gives_a_table_a_document_and_curves(clean: Path, tmp_path: Path) -> None:
    table, svg = tmp_path / "table.csv", tmp_path / "curves.svg"
    document = _json(
        "robustness", clean, "--mark", "sd-v1", "--images", 4, "--attack", "jpeg=90,50",
        "--attack", "flip", "--table", table, "--svg", svg,
    )  # fmt: skip
    rows = pd.DataFrame(document["rows"])
    assert list(dict.fromkeys(zip(rows.attack, rows.strength.fillna(0), strict=True))) == [
        ("none", 0),
        ("jpeg", 90),
        ("jpeg", 50),
        ("flip", 1),
    ]
    assert set(rows.fpr) == {1e-3, 1e-6} and set(rows.n) == {4}
    unattacked = rows[rows.attack == "none"]
    assert (unattacked.bit_accuracy > 0.8).all() and (unattacked.psnr > 30).all()
    assert (rows[rows.strength == 50].tpr == 0).all()  # dwtDct does not survive it
    assert len(pd.read_csv(table)) == len(rows)
    drawn = ElementTree.parse(svg).getroot()
    assert len([g for g in drawn.iter() if "data-estimate" in g.attrib]) == 5
    assert "var(--series-0" in svg.read_text()


def test_robustness_in_words_has_a_line_for_each_strength(clean: Path) -> None:
    said = _run("robustness", clean, "--mark", "sd-v2", "--images", 2, "--attack", "flip").stdout
    assert "sd-v2, none:" in said and "sd-v2, flip:" in said
    assert "of 2 images, PSNR" in said


def test_a_model_draws_images_anew_and_marks_are_carried_over(
    clean: Path, folder: Path, tmp_path: Path
) -> None:
    for name in ("00.png", "01.png"):
        (tmp_path / name).write_bytes((clean / name).read_bytes())
    (tmp_path / "black.jpg").write_bytes((folder / "black.jpg").read_bytes())
    document = _json(
        "robustness", tmp_path, "--mark", "sd-v2", "--attack", "vae=0", "--model", "phantom",
        "--forge",
    )  # fmt: skip
    rows = pd.DataFrame(document["rows"]).set_index(["attack", "fpr"])
    # The phantom's autoencoder is one of 64 pixels: little is left of a photograph, or of a mark.
    assert rows.loc[("vae", 1e-6), "tpr"] == 0 and rows.loc[("vae", 1e-6), "psnr"] < 30
    assert document["images"] == 2 and "black" in next(iter(document["unreadable"].values()))
    forged = pd.DataFrame(document["forgeries"])
    assert set(forged.forgery) == {"none", "transplant", "copy", "average", "average-paired"}
    assert (forged[forged.forgery == "none"].accepted == 0).all()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda f: ["robustness", f, "--attack", "vae"], "give the --model that does it"),
        (lambda f: ["robustness", f, "--attack", "flip=nan"], "a whole number of times"),
        (lambda f: ["check", f / "nowhere.png"], "no file or folder"),
        (lambda f: ["check", "--mark", "sd-v9", f], "unknown watermark 'sd-v9'; did you mean"),
        (lambda f: ["check", "--mark", "sd-v1", "--mark", "sd-v1", f], "two watermarks are named"),
        (lambda f: ["check", "--calibration", f / "notes.txt", f], "is no JSON"),
        (lambda f: ["check", "--trust", f / "notes.txt", f], "no PEM certificate"),
        (lambda f: ["check", "--marks", f / "notes.txt", f], "a list of marks"),
        (lambda f: ["calibrate", f / "sub", "--out", f / "x"], "1 clean images are too few"),
        (lambda f: ["robustness", f, "--attack", "jpg"], "no attack 'jpg'; did you mean 'jpeg'"),
        (lambda f: ["robustness", f, "--attack", "jpeg=x"], "strengths are numbers"),
        (lambda f: ["robustness", f / "keys"], "no file or folder"),
    ],
)
def test_wrong_arguments_are_one_clear_line(
    arguments: Callable[[Path], list[object]], said: str, folder: Path
) -> None:
    result = _run(*arguments(folder))
    assert isinstance(result.exception, AuditError)
    assert said in str(result.exception) and "\n" not in str(result.exception)


def test_a_calibration_of_another_message_is_refused(clean: Path, tmp_path: Path) -> None:
    marks, out = tmp_path / "marks.yaml", tmp_path / "null.json"
    marks.write_text("- {method: dwtDct, message: abcd, name: mine}\n")
    _run("calibrate", clean, "--out", out, "--marks", marks)
    marks.write_text("- {method: dwtDct, message: efgh, name: mine}\n")
    result = _run("check", "--marks", marks, "--calibration", out, clean / "00.png")
    assert "another message or key" in str(result.exception)


def test_a_folder_without_images_is_said(tmp_path: Path) -> None:
    assert "holds no image" in str(_run("check", tmp_path).exception)

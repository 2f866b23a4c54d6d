"""``t2i-audit tokenizer`` and ``t2i-audit lint``: answers without images, and one line of error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from audit.cli import cli
from audit.errors import AuditError, Incomplete
from audit.phantom import path


def call(*arguments: object) -> str:
    return CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False).output


def error(*arguments: object) -> tuple[AuditError, str]:
    result = CliRunner().invoke(cli, list(map(str, arguments)))
    assert isinstance(result.exception, AuditError), result.exception
    assert "\n" not in str(result.exception)
    return result.exception, result.output


def test_the_phantoms_tokenizer_is_reported_by_language_and_arm():
    said = call("tokenizer", "phantom", "--languages", "tr,sw,hi")
    assert said.startswith("tokenizer: 30 tokens fit\n")
    rows = json.loads(call("tokenizer", "phantom", "--languages", "tr,sw,hi", "--json"))
    table = {row["language"]: row for row in rows["tokenizers"]["tokenizer"]}
    assert list(table) == ["en", "tr", "sw", "hi"]
    # It was taught Turkish and Swahili, and knows of Hindi the bytes alone.
    assert table["sw"]["fertility"] < 1 < 5 < table["hi"]["fertility"]
    assert table["hi"]["byte_share"] == 1 and table["hi"]["cut_share"] == 1
    arms = json.loads(call("tokenizer", "clip", "--languages", "de", "--arms", "all", "--json"))
    assert {row["arm"] for row in arms["tokenizers"]["clip"]} == {
        "english", "rewording", "homoglyph", "translation", "gender_fair", "code_switched"
    }  # fmt: skip


def test_folders_and_files_of_every_kind_are_reported_without_weights(tmp_path: Path):
    by_name = call("tokenizer", "phantom", "--languages", "tr", "--json")
    for model in (path("phantom"), path("phantom") / "tokenizer"):
        found = json.loads(call("tokenizer", model, "--languages", "tr", "--json"))
        assert found["tokenizers"] == json.loads(by_name)["tokenizers"]
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"")  # it is not opened: no such file holds a tokenizer
    rows = json.loads(call("tokenizer", single, "--languages", "tr", "--json"))["tokenizers"]
    assert (
        rows == json.loads(call("tokenizer", "clip", "--languages", "tr", "--json"))["tokenizers"]
    )
    two = tmp_path / "sdxl"
    for name in ("tokenizer", "tokenizer_2"):
        (two / name).mkdir(parents=True)
        for file in (path("phantom") / "tokenizer").iterdir():
            (two / name / file.name).write_bytes(file.read_bytes())
    said = json.loads(call("tokenizer", two, "--languages", "tr", "--json"))["tokenizers"]
    assert list(said) == ["tokenizer", "tokenizer_2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenizer", "phantm"], "no model 'phantm'"),
        (["tokenizer", "nowhere.safetensors"], "no file nowhere.safetensors"),
        (["tokenizer", "openai:http://x/v1#y"], "is not a model on this disk"),
        (["tokenizer", "phantom", "--languages", "xx"], "no language 'xx'"),
        (["tokenizer", "phantom", "--languages", ","], "--languages is empty"),
        (["tokenizer", "phantom", "--arms", "romanized"], "did you mean 'romanised'"),
        (["tokenizer", "phantom", "--prompts", "nowhere"], "cannot read nowhere"),
        (["lint", "nowhere"], "no prompts 'nowhere'"),
        (["lint", "nowhere.csv"], "cannot read nowhere.csv"),
        (["lint", "magbig:nowhere"], "no occ_LANGUAGE.csv"),
        (["lint", "nowhere.yaml"], "no suite 'nowhere.yaml'"),
    ],
)
def test_a_wrong_input_is_one_line(arguments: list[str], message: str):
    raised, output = error(*arguments)
    assert message in str(raised) and raised.exit_code == 2 and output == ""


def test_a_folder_without_a_tokenizer_is_one_line(tmp_path: Path):
    raised, _ = error("tokenizer", tmp_path)
    assert f"no tokenizer in {tmp_path}" in str(raised)


def test_the_shipped_prompts_and_suites_have_no_problem():
    assert call("lint", "phantom", "general", "languages").endswith(" prompts, no problem\n")
    document = json.loads(call("lint", "--json"))
    assert document["problems"] == [] and document["prompts"] > 1400


def test_each_problem_of_a_table_stands_with_its_line(tmp_path: Path):
    table = tmp_path / "prompts.csv"
    table.write_text(
        "id,language,text\n"
        "cat,en,a photo of a cat\n"
        "dog,en,a photo of an dog\n"
        "cat,de,ein Foto von einer Katze\n"
        "dog,de,ein Foto von einer Katze\n"
        "cat,ru,фото кoта\n",  # the first о of кота is Latin
        encoding="utf-8",
    )
    raised, output = error("lint", table)
    assert isinstance(raised, Incomplete) and raised.exit_code == 1
    lines = output.splitlines()
    assert str(raised) == f"{len(lines)} problems in 5 prompts"
    assert any(line.startswith(f"{table}:3: dog (en): 'an dog' should be") for line in lines)
    assert any(line.startswith(f"{table}:5: dog (de): the same text as 'cat'") for line in lines)
    assert any(line.startswith(f"{table}:6: cat (ru): U+006F") for line in lines)
    assert any("dog (ru): missing" in line for line in lines)
    result = CliRunner().invoke(cli, ["lint", str(table), "--json"])
    problems = json.loads(result.stdout)["problems"]
    assert len(problems) == len(lines) and {p["check"] for p in problems} >= {"article", "missing"}


def test_a_suites_own_prompts_are_found_by_line(tmp_path: Path):
    suite = tmp_path / "own.yaml"
    suite.write_text(
        "about: ours\nlanguages:\n  prompts:\n    cat:\n      en: a photo of a cat\n"
        "      de: ' ein Foto von einer Katze'\n"
    )
    _, output = error("lint", suite)
    assert output.startswith(f"{suite}:6: cat (de): white space before or after the text")


def test_an_outside_suite_is_checked_without_being_quoted(tmp_path: Path):
    folder = tmp_path / "magbig"
    folder.mkdir()
    (folder / "occ_english.csv").write_text("name,prompt\nbaker,A photo of a baker\n")
    (folder / "occ_german.csv").write_text("name,prompt\nbaker,A photo of a baker\n")
    _, output = error("lint", f"magbig:{folder}")
    assert f"{folder}/occ_german.csv:2: occupation/direct/baker (de): the text is the" in output
    assert "A photo of a baker" not in output

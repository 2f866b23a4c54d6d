"""Outside suites in the form their authors publish; the texts here are ours and harmless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit import outside_suites as suites
from audit.errors import AuditError
from audit.prompts import lint

SEGA = ",sega1,sega2,baseline1,baseline2,baseline_ext,baseline_neg1,baseline_neg2"
I2P = ("prompt,categories,hard,inappropriate_percentage,nudity_percentage,q16_percentage,"
       "sd_safety_percentage,prompt_toxicity,lexica_url,sd_seed,sd_guidance_scale,sd_image_width,"
       "sd_image_height,sd_model")  # fmt: skip


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def magbig(tmp_path: Path) -> Path:
    folder = tmp_path / "MAGBIG/prompts"
    write(folder / "occ_english.csv",
          f"name,prompt{SEGA}\nbaker,A photo of the face of a baker,,,,,,,\n"
          "cook,A photo of the face of a cook,,,,,,,\n")  # fmt: skip
    write(folder / "occ_german.csv", "name,prompt\nbaker, Ein Foto vom Gesicht eines Bäckers\n"
          "cook,Ein Foto vom Gesicht eines Kochs\n")  # fmt: skip
    write(
        folder / "occ_german_star.csv", "name,prompt\nbaker,Ein Foto vom Gesicht eine*r Bäcker*in\n"
    )
    write(folder / "adj_english.csv", "name,prompt\nkind,A photo of the face of a kind person\n")
    write(folder / "adj_russian.csv", "name,prompt\nkind,фото лица доброго человека\n")
    indirect = folder / "indirect:gender_neutral"
    write(
        indirect / "occ_english.csv",
        'name,prompt\nbaker,"A person who makes bread, and sells it"\n',
    )
    write(indirect / "occ_german.csv", 'name,prompt\nbaker,"Eine Person, die Brot backt"\n')
    return folder.parent


def test_magbig_pairs_languages_and_forms_by_name(magbig):
    found = suites.load("magbig", magbig)
    assert [(p.id, p.language, p.tags["form"]) for p in found] == [
        ("occupation/direct/baker", "en", "direct"),
        ("occupation/direct/cook", "en", "direct"),
        ("occupation/direct/baker", "de", "direct"),
        ("occupation/direct/cook", "de", "direct"),
        ("occupation/star/baker", "de", "star"),
        ("adjective/direct/kind", "en", "direct"),
        ("adjective/direct/kind", "ru", "direct"),
        ("occupation/indirect/baker", "en", "indirect"),
        ("occupation/indirect/baker", "de", "indirect"),
    ]
    german = found[2]
    assert german.text == "Ein Foto vom Gesicht eines Bäckers"
    assert german.english_text == "A photo of the face of a baker"
    assert german.where.endswith("occ_german.csv:2") and german.group == "occupation"
    assert found[4].english_text == german.english_text
    assert found[7].text == "A person who makes bread, and sells it"
    assert suites.load("magbig", magbig / "prompts") == found
    assert lint(found, complete=False) == []


@pytest.mark.parametrize(
    ("file", "text", "error"),
    [
        ("occ_german.csv", "name,text\nbaker,x\n", r"occ_german.csv:1: no column 'prompt'"),
        (
            "occ_german.csv",
            "name,prompt\nbaker,x\nsmith,y\n",
            r":3: the English file .* no 'smith'",
        ),
        ("occ_german.csv", "name,prompt\nbaker,  \n", r"occ_german.csv:2: 'prompt' is empty"),
        ("occ_german.csv", "name,prompt\nbaker,x\nbaker,y\n", r":3: the name 'baker' is there"),
        ("occ_german.csv", "name,prompt\nbaker,a, b\n", r":2: 3 fields where the header has 2"),
        ("occ_german.csv", 'name,prompt\nbaker,"x\ny\n', r"occ_german.csv:2: not a valid table"),
        ("occ_german.csv", "name,prompt\nbaker,Bäcker\n".encode("latin-1"), r":2: not UTF-8 text"),
        ("occ_german.csv", "", r"occ_german.csv:1: the file is empty"),
    ],
)
def test_what_is_wrong_with_a_table_is_named_with_its_line(magbig, file, text, error):
    write(magbig / "prompts" / file, text)
    with pytest.raises(AuditError, match=error):
        suites.load("magbig", magbig)


def test_a_row_over_several_lines_is_named_by_its_first(magbig):
    text = 'name,prompt\nbaker,"two\nlines"\n\ncook, \n'
    write(magbig / "prompts/occ_german.csv", text)
    with pytest.raises(AuditError, match=r"occ_german.csv:5: 'prompt' is empty"):
        suites.load("magbig", magbig)


def test_a_folder_that_is_not_magbig_is_refused(tmp_path):
    with pytest.raises(AuditError, match=r"no occ_LANGUAGE\.csv or adj_LANGUAGE\.csv"):
        suites.load("magbig", tmp_path)


def test_parti_prompts(tmp_path):
    rows = "a bowl\tAbstract\tBasic\t\na cat, asleep\tAnimals\tSimple Detail\tsee 2\n"
    text = "\ufeffPrompt\tCategory\tChallenge\tNote\n" + rows
    file = write(tmp_path / "PartiPrompts.tsv", text)
    found = suites.load("parti-prompts", file)
    assert [(p.id, p.text, p.group) for p in found] == [
        ("line-2", "a bowl", "Abstract"), ("line-3", "a cat, asleep", "Animals")]  # fmt: skip
    assert (
        found[1].tags == {"challenge": "Simple Detail"} and found[1].english_text == found[1].text
    )
    write(file, "Prompt,Category,Challenge,Note\na,b,c,d\n")
    with pytest.raises(AuditError, match=r"PartiPrompts.tsv:1: no column .*tab-separated header"):
        suites.load("parti-prompts", file)


def test_i2p_in_both_forms_gives_the_same(tmp_path):
    row = 'a quiet lake,"calm, water",0,10.0,0.0,0.1,0.0,0.01,https://x.org/1,77,7.5,512,512,sd-1'
    original = suites.load("i2p", write(tmp_path / "i2p_benchmark.csv", f"{I2P}\n{row}\n"))
    renamed = I2P.replace("sd_seed", "evaluation_seed")
    renamed = renamed.replace("sd_guidance_scale", "evaluation_guidance")
    copy = write(tmp_path / "copy.csv", f",{renamed},case_number\n0,{row},4\n")
    assert suites.load("i2p", copy) == original
    assert original[0].group == "calm"
    assert original[0].tags == {
        "categories": "calm,water", "hard": False, "seed": 77, "guidance": 7.5,
    }  # fmt: skip


def test_i2p_is_never_quoted(tmp_path):
    row = 'a quiet lake,"calm",0,,,,,,,,,,,'
    file = write(tmp_path / "i2p.csv", f"{I2P}\n{row}\n")
    assert "lake" not in repr(suites.load("i2p", file))
    write(file, f"{I2P}\n{row.replace(',0,,,,,,,', ',0,,,,,,,many')}\n")
    with pytest.raises(AuditError, match=r"i2p.csv:2: sd_seed is not a number") as error:
        suites.load("i2p", file)
    assert "lake" not in str(error.value)


XM = {
    "de": {"caption": ["Ein See.", "Ein stiller See."], "caption/tokenized": ["Ein See ."]},
    "en": {"caption": ["A lake.", "A calm lake."]},
    "image/key": "0a1b",
    "image/locale": "de",
}


def test_crossmodal_3600(tmp_path):
    second = {
        "image/key": "2c",
        "image/locale": "sw",
        "en": ["A hut\u2028there"],
        "sw": ["Kibanda"],
    }
    lines = "\n".join(json.dumps(x, ensure_ascii=False) for x in (XM, second)) + "\n"
    file = write(tmp_path / "captions.jsonl", lines)
    found = suites.load("crossmodal-3600", file)
    assert [(p.id, p.language) for p in found] == [
        ("0a1b/0", "de"), ("0a1b/1", "de"), ("0a1b/0", "en"), ("0a1b/1", "en"),
        ("2c/0", "en"), ("2c/0", "sw"),
    ]  # fmt: skip
    assert found[1].text == "Ein stiller See." and found[1].english_text == "A lake."
    assert found[1].tags == {"image": "0a1b", "locale": "de", "caption": 1}
    assert found[5].where.endswith("captions.jsonl:2")
    assert [p.language for p in suites.crossmodal_3600(file, ["sw"])] == ["sw"]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ('{"image/key": "x",', r"captions.jsonl:2: not valid JSON at column \d+"),
        ("[1]", r"captions.jsonl:2: a JSON object is expected, not list"),
        ('{"en": ["a"]}', r"captions.jsonl:2: no 'image/key'"),
        ('{"image/key": "x", "de": ["a"]}', r"captions.jsonl:2: no English captions"),
        ('{"image/key": "x", "en": ["a", " "]}', r"captions.jsonl:2: an empty caption in 'en'"),
        ('{"image/key": "x", "en": "a"}', r"captions.jsonl:2: the captions of 'en' are no list"),
        ("[" * 100_000, r"captions.jsonl:2: JSON is nested too deeply"),
    ],
)
def test_a_wrong_line_of_json_is_named(tmp_path, line, error):
    file = write(tmp_path / "captions.jsonl", json.dumps(XM) + "\n" + line + "\n")
    with pytest.raises(AuditError, match=error):
        suites.load("crossmodal-3600", file)


def coco() -> dict:
    return {
        "info": {},
        "images": [{"id": 7, "file_name": "000007.jpg"}],
        "annotations": [{"image_id": 7, "id": 41, "caption": "A red bicycle. "}],
    }


def test_coco_captions(tmp_path):
    file = write(tmp_path / "captions_val2017.json", json.dumps(coco()))
    (found,) = suites.load("coco-captions", file)
    assert (found.id, found.text, found.group) == ("41", "A red bicycle.", "caption")
    assert found.tags == {"image": "7", "file_name": "000007.jpg"}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"annotations": None}, r"json:1: lists 'images' and 'annotations'"),
        ({"images": [{}]}, r"images\[0\] has no 'id'"),
        ({"annotations": [{"id": 1, "image_id": 7}]}, r"annotations\[0\] has no caption"),
        ({"annotations": [{"id": 1, "image_id": 8, "caption": "x"}]}, r"no image 8"),
        ({"annotations": [{"caption": "x"}]}, r"annotations\[0\] has no 'id' or 'image_id'"),
    ],
)
def test_wrong_coco_is_named_by_its_annotation(tmp_path, change, error):
    file = write(tmp_path / "captions.json", json.dumps({**coco(), **change}))
    with pytest.raises(AuditError, match=error):
        suites.load("coco-captions", file)


def test_broken_coco_is_named_with_its_line(tmp_path):
    file = write(tmp_path / "captions.json", '{"images": [],\n"annotations": [}\n')
    with pytest.raises(AuditError, match=r"captions.json:2: not valid JSON at column 17"):
        suites.load("coco-captions", file)


def test_names_and_missing_files_are_told(tmp_path):
    with pytest.raises(AuditError, match="did you mean 'magbig'"):
        suites.load("magpig", tmp_path)
    with pytest.raises(AuditError, match=r"cannot read .*none.json: No such file"):
        suites.load("coco-captions", tmp_path / "none.json")

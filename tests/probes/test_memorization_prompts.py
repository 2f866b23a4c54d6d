"""What is asked: lists with the line of what is wrong, bands, random tokens, other probes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from audit import suites
from audit.detectors.memorization_signals import SIGNALS
from audit.errors import AuditError
from audit.phantom import path as phantom_path
from audit.spec import Spec
from audit.study import Study
from probes.languages import Languages
from probes.memorization import Memorization
from probes.memorizing.lists import read_list
from probes.memorizing.prompts import asked_captions, vocabulary, with_random_tokens
from probes.memorizing.settings import Settings, settings
from probes.watermarks import Watermarks
from tests.probes.copying import write_index
from tests.synthetic import study


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Ten images, the first repeated forty times, the second twenty, as near-copies."""
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(10, 32))
    rows = [0] * 40 + [1] * 20 + list(range(2, 10))
    near = vectors[rows] + rng.normal(0, 1e-3, (len(rows), 32))
    return write_index(
        tmp_path / "index",
        near,
        image_path=[f"{n}.png" for n in rows],
        url=[f"https://example.org/{n}" for n in rows],
        caption=[f"caption {n}" if place else "another caption" for place, n in enumerate(rows)],
    )


def test_a_published_list_is_read_with_what_it_says(tmp_path: Path):
    table = tmp_path / "list.csv"
    table.write_text(
        "caption,url,index,duplicates,overfit_type\n"
        '"a cat, sitting",https://example.org/a.jpg,3,120,MV\n'
        "a dog,,,,TV\n"
    )
    lines = tmp_path / "list.jsonl"
    rows = [
        {"caption": "a cat, sitting", "url": "https://example.org/a.jpg", "index": 3},
        {"caption": "a dog", "memorized": False, "duplicates": None},
    ]
    lines.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    cat, dog = read_list(table, "list")
    assert (cat.text, cat.row, cat.duplicates) == ("a cat, sitting", 3, 120)
    assert (dog.url, dog.row, dog.duplicates, dog.memorized) == (None, None, None, None)
    cat, dog = read_list(lines, "list")
    assert (cat.url, cat.row, dog.memorized) == ("https://example.org/a.jpg", 3, False)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.csv", "text,url\na,b\n", r"c\.csv:1: no column 'caption'"),
        ("c.csv", "caption,duplicates\na,1\nb,many\n", r"c\.csv:3: duplicates is a whole number"),
        ("c.csv", "caption,index\na,-1\n", r"c\.csv:2: index is a whole number"),
        ("c.csv", "caption,duplicates\na,1\n,2\n", r"c\.csv:3: 'caption' is empty"),
        ("c.csv", "caption\na\nb\na\n", r"c\.csv:4: the caption of .*c\.csv:2 again"),
        ("c.csv", "caption,memorized\na,perhaps\n", r"c\.csv:2: memorized is true or false"),
        ("c.csv", "caption\n", r"c\.csv:1: the list has no captions"),
        ("c.jsonl", '{"caption": "a"}\n{"caption"}\n', r"c\.jsonl:2: not valid JSON"),
        ("c.jsonl", '["a"]\n', r"c\.jsonl:1: a line is an object"),
        ("c.jsonl", '{"caption": "a"}\n{"url": "b"}\n', r"c\.jsonl:2: 'caption' is missing"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, name: str, text: str, message: str):
    (tmp_path / name).write_text(text)
    options = {"captions": str(tmp_path / name)}
    with pytest.raises(AuditError, match=message):
        list(Memorization().uses(study({}, memorization=options)))


def test_negatives_are_declared_and_not_contradicted(tmp_path: Path):
    (tmp_path / "n.csv").write_text("caption\nnever\n")
    (never,) = read_list(tmp_path / "n.csv", "negatives")
    assert never.duplicates == 0 and never.memorized is False
    (tmp_path / "n.csv").write_text("caption,duplicates\nnever,0\nonce,1\n")
    with pytest.raises(AuditError, match=r"n\.csv:3: a negative was never trained on"):
        read_list(tmp_path / "n.csv", "negatives")
    (tmp_path / "c.csv").write_text("caption\nboth\n")
    (tmp_path / "n.csv").write_text("caption\nboth\n")
    with pytest.raises(AuditError, match=r"n\.csv:2: the caption of .*c\.csv:2 again"):
        asked_captions(Settings(captions=tmp_path / "c.csv", negatives=tmp_path / "n.csv"))


def test_a_row_of_the_index_names_the_training_image(tmp_path: Path, index: Path):
    (tmp_path / "c.csv").write_text("caption,index\na,61\nb,\n")
    first, second = asked_captions(Settings(captions=tmp_path / "c.csv", index=str(index)))
    assert (first.target, first.url) == ("3.png", "https://example.org/3")
    assert second.target is None
    (tmp_path / "c.csv").write_text("caption,index\na,68\n")
    with pytest.raises(AuditError, match=r"c\.csv:2: index 68 is no row of .*, which has 68"):
        asked_captions(Settings(captions=tmp_path / "c.csv", index=str(index)))


def test_the_most_repeated_images_give_their_usual_captions(index: Path):
    found = asked_captions(Settings(index=str(index), most_duplicated=2))
    assert [(c.text, c.duplicates, c.target) for c in found] == [
        ("caption 0", 40, "0.png"),
        ("caption 1", 20, "1.png"),
    ]
    # What stands there once is not repeated, however many are asked for.
    assert len(asked_captions(Settings(index=str(index), most_duplicated=9))) == 2


def test_all_prompts_have_the_same_seeds_and_say_where_they_come_from(tmp_path: Path, index: Path):
    (tmp_path / "c.csv").write_text("caption,duplicates\nx,0\ny,7\n")
    options = {
        "captions": str(tmp_path / "c.csv"),
        "index": str(index),
        "most_duplicated": 1,
        "memorized_from": 30,
        "mitigation": {"captions": 1, "random_tokens": 2, "guidance": 2.5, "images": 1},
    }
    uses = list(Memorization().uses(study({}, memorization=options)))
    asked = [(u.text, u.tags["source"], u.tags["arm"], u.request.seed) for u in uses]
    assert asked == [
        ("x", "list", "base", 0),
        ("x", "list", "base", 1),
        ("y", "list", "base", 0),
        ("y", "list", "base", 1),
        ("caption 0", "index", "base", 0),
        ("caption 0", "index", "base", 1),
        ("caption 0", "index", "tokens", 0),
        ("caption 0", "index", "guidance", 0),
    ]
    assert uses[-2].request.prompt != "caption 0" and len(uses[-2].request.prompt.split()) == 4
    assert uses[-1].request.guidance == 2.5


def test_bands_are_numbers_of_copies_or_a_grid(tmp_path: Path):
    lines = ["caption,duplicates", *(f"c{n},{n}" for n in range(40))]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    uses = Memorization().uses(study({}, memorization={"captions": str(tmp_path / "c.csv")}))
    bands = {use.tags["duplicates"]: use.tags["band"] for use in uses}
    assert [bands[n] for n in (0, 1, 2, 9, 10, 29, 30, 39)] == [0, 1, 2, 3, 10, 10, 30, 30]


def test_the_other_probes_prompts_cost_no_image(index: Path):
    suite = suites.load("phantom")
    options = {"index": str(index), "captions": None, "other_prompts": 1, "mitigation": None}
    chosen = {"memorization": options, "watermarks": {}, "languages": {}}
    asked = Study(Spec(probes=chosen), suite, None)
    uses = list(Memorization().uses(asked))
    theirs = [u.request for probe in (Languages(), Watermarks()) for u in probe.uses(asked)]
    assert {u.tags["source"] for u in uses} == {"languages", "watermarks"}
    assert {u.request for u in uses} <= set(theirs)
    assert not any(u.request.watermark for u in uses)  # what was marked is not as it was made
    assert len(uses) == len({u.request.prompt for u in uses})


def test_random_tokens_are_the_models_own_words():
    assert vocabulary(None) == []
    phantom = vocabulary(phantom_path())
    assert "portrait" in phantom and all(word.isalpha() for word in phantom)
    changed = with_random_tokens("a portrait of somebody", 4, phantom)
    added = list(changed.split())
    for word in ("a", "portrait", "of", "somebody"):
        added.remove(word)
    assert len(added) == 4 and set(added) <= set(phantom)
    assert changed == with_random_tokens("a portrait of somebody", 4, phantom)
    assert sum(word.isdigit() for word in with_random_tokens("a cat", 3, []).split()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"caption": "x.csv"}, "unknown key 'caption'.*did you mean 'captions'"),
        ({"fpr": 0}, "fpr lies above 0 and up to 0.5, not 0"),
        ({"neighbours": 0}, "neighbours is a whole number of 1 or more"),
        ({"most_duplicated": 3}, "most_duplicated needs an 'index'"),
        ({"memorized_from": 1, "unmemorized_to": 1}, "must lie below memorized_from"),
        ({"mitigation": {"token": 3}}, "mitigation: unknown key 'token'"),
        ({"mitigation": 4}, "mitigation is a mapping"),
        ({"images": "nowhere"}, "images is a folder, or phantom; there is no 'nowhere'"),
    ],
)
def test_a_wrong_option_is_named(options: dict, message: str):
    with pytest.raises(AuditError, match=message):
        settings(study({}, memorization=options))


def test_the_readme_shows_options_that_there_are(tmp_path: Path):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(probes:\n  memorization:.*?)```", readme, re.DOTALL)
    options = yaml.safe_load(block)["probes"]["memorization"] | {"images": str(tmp_path)}
    asked = settings(study({}, memorization=options))
    assert asked.mitigation is not None and asked.mitigation.guidance == 3
    assert set(asked.opening) == {"embeddings", "exclude", "filters"}
    shown = yaml.safe_load(block)["detectors"]["memorization-signals"]["signals"]
    assert tuple(shown) == SIGNALS


def test_only_an_embedding_folder_is_read_for_repeated_captions(index: Path, monkeypatch):
    from probes.memorizing import prompts

    class Elsewhere:
        name = "http://127.0.0.1:1/laion"

        def __len__(self) -> int:
            return 3

    monkeypatch.setattr(prompts, "open_index", lambda *_, **__: Elsewhere())
    with pytest.raises(AuditError, match="most_duplicated reads an embedding folder"):
        asked_captions(Settings(index=str(index), most_duplicated=1))

"""The report on a vocabulary made by hand, on CLIP's own, and on a saved one."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest

from audit import prompts
from audit import tokenizer_report as tokenizers
from audit.backends.clip_tokenizer import clip_tokenizer
from audit.errors import AuditError
from audit.prompts import Prompt
from audit.tokenizer_report import Tokenizer, as_text, report

PUBLISHED = {"it": 1.25, "es": 1.30, "fr": 1.37, "de": 1.57, "ja": 1.97, "ar": 2.06, "ko": 2.47,
             "zh": 2.98, "ru": 3.15}  # fmt: skip
"""Fertility against English of the same vocabulary on MAGBIG's prompts."""


def by_hand(text: str) -> list[bytes | None]:
    """Knows the words *red* and *house* and all letters of ASCII; else bytes; never a digit."""
    found: list[bytes | None] = []
    for word in text.split():
        if word in ("red", "house"):
            found.append(word.encode())
        else:
            found += [None if letter.isdigit() else bytes([b])
                      for letter in word for b in letter.encode()]  # fmt: skip
    return found


def test_a_vocabulary_made_by_hand_gives_the_answers_counted_by_hand():
    rows = [
        Prompt("1", "red house", "en", "red house"),
        Prompt("2", "red ab", "en", "red ab"),
        Prompt("1", "maison é", "fr", "red house"),  # 6 + 2 bytes, both part of é
        Prompt("2", "red 1", "fr", "red ab"),  # red and an unknown
        Prompt("1", "红", "zh", "red house"),  # 3 bytes
    ]
    frame = report(Tokenizer("hand", by_hand, 4), rows).set_index("language")
    assert list(frame.index) == ["en", "fr", "zh"] and list(frame.prompts) == [2, 2, 1]
    assert list(frame.tokens) == [5, 10, 3]
    assert list(frame.tokens_per_word[:2]) == [5 / 4, 10 / 3]  # a digit is no word
    assert math.isnan(frame.tokens_per_word["zh"])
    assert list(frame.fertility) == [1, 10 / 5, 3 / 2]
    assert list(frame.byte_share) == list(frame.partial_share) == [0, 2 / 10, 1]
    assert list(frame.unknown_share) == [0, 1 / 10, 0]
    assert list(frame.longest) == [3, 8, 3] and list(frame.cut_share) == [0, 1 / 2, 0]


def test_a_prompt_that_just_fits_is_not_cut():
    def lengths(limit: int) -> float:
        frame = report(Tokenizer("hand", by_hand, limit), [Prompt("1", "abcd")])
        return float(frame.cut_share[0])

    assert (lengths(3), lengths(4)) == (1, 0)


def test_without_english_texts_or_a_limit_the_column_is_undefined():
    frame = report(Tokenizer("hand", by_hand, None), [Prompt("1", "rouge", "fr")])
    assert math.isnan(frame.fertility[0]) and math.isnan(frame.cut_share[0])
    assert "–" in as_text(frame)


def test_no_prompts_no_table():
    assert as_text(report(Tokenizer("hand", by_hand, 4), [])) == "no prompts"


@pytest.fixture(scope="module")
def clip() -> Tokenizer:
    return tokenizers.clip()


@pytest.fixture(scope="module")
def table(clip: Tokenizer) -> pd.DataFrame:
    frame = report(clip, prompts.parallel().prompts(arms=prompts.ARMS))
    return frame.set_index(["language", "arm"])


def test_clip_costs_the_languages_what_was_published(table):
    """Other prompts, so only the order of those far apart and the rough size."""
    ours = {language: table.fertility[language, "translation"] for language in PUBLISHED}
    for language, published in PUBLISHED.items():
        assert 0.85 <= ours[language] / published <= 1.35, language
        for other, cost in PUBLISHED.items():
            if cost > 1.3 * published:
                assert ours[other] > ours[language], (language, other)
    ranks = pd.Series(ours).rank().corr(pd.Series(PUBLISHED).rank())
    assert ranks >= 0.9


def test_the_arms_cost_as_they_should(table):
    assert table.fertility["en", "english"] == 1
    assert 1 < table.fertility["en", "rewording"] < 1.3
    assert table.byte_share["en", "english"] == 0 < table.byte_share["en", "homoglyph"]
    for language in ("ru", "ar", "hi", "zh", "ja", "ko", "el", "he"):
        said, romanised = table.loc[language, "translation"], table.loc[language, "romanised"]
        switched = table.loc[language, "code_switched"]
        assert romanised.fertility < said.fertility and romanised.byte_share == 0
        assert 1 < switched.fertility < said.fertility
        assert 0 < said.byte_share <= said.partial_share


def test_greek_is_cut_and_english_not(table):
    """CLIP has hardly a Greek piece: a letter is two bytes, a short prompt outgrows 75 places."""
    assert (
        table.cut_share["el", "translation"] > 0.1 and table.byte_share["el", "translation"] > 0.99
    )
    assert table.cut_share["en", "english"] == 0


def test_openclips_own_tokenizer_gives_the_same_pieces(clip):
    from open_clip.tokenizer import SimpleTokenizer

    source = SimpleTokenizer()

    def pieces(text: str) -> list[bytes]:
        tokens = (source.decoder[token].removesuffix("</w>") for token in source.encode(text))
        return [bytes(source.byte_decoder[letter] for letter in token) for token in tokens]

    assert clip.limit == source.context_length - 2 == 75
    every = list(prompts.parallel().prompts(arms=prompts.ARMS))
    assert [p.id for p in every if pieces(p.text) != clip.pieces(p.text)] == []


def test_a_saved_tokenizer_is_opened_as_it_was(clip, tmp_path):
    clip_tokenizer().save_pretrained(tmp_path / "tokenizer")
    opened = tokenizers.open_tokenizer(str(tmp_path))
    assert opened.limit == clip.limit
    for prompt in prompts.parallel().prompts(["hi", "ja"]):
        assert opened.pieces(prompt.text) == clip.pieces(prompt.text)


def test_the_pieces_are_the_text(clip):
    for prompt in prompts.parallel().prompts(arms=["translation"]):
        joined = b"".join(piece or b"" for piece in clip.pieces(prompt.text)).decode()
        assert joined == prompt.text.lower().replace(" ", "")


def test_sentencepiece_bytes_and_unknown_tokens_are_told_apart():
    class Pieces:
        """The face of a transformers tokenizer with SentencePiece's forms of token."""

        unk_token, model_max_length = "<unk>", 512

        def get_vocab(self):
            return {"▁red": 0, "<0xC3>": 1, "<0xA9>": 2, "<unk>": 3}

        def num_special_tokens_to_add(self):
            return 1

        def __call__(self, text, **options):
            assert options == {"add_special_tokens": False, "truncation": False, "verbose": False}
            return type("Encoded", (), {"input_ids": [0, 1, 2, 3]})

        def convert_ids_to_tokens(self, ids):
            names = list(self.get_vocab())
            return [names[i] for i in ids]

    tokenizer = tokenizers.of_transformers(Pieces())
    assert tokenizer.limit == 511
    assert tokenizer.pieces("red é 1") == [b" red", b"\xc3", b"\xa9", None]


def test_the_phantoms_folder_is_read():
    from audit.phantom import vocabulary

    folder = Path(vocabulary.__file__).parent / "weights/phantom"
    phantom = tokenizers.open_tokenizer(str(folder))
    assert (
        phantom.limit == 30 and b"".join(p or b"" for p in phantom.pieces("a doctor")) == b"adoctor"
    )


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(AuditError, match=r"no tokenizer in .*; give a folder with tokenizer\.json"):
        tokenizers.open_tokenizer(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(AuditError, match="cannot be read"):
        tokenizers.open_tokenizer(str(tmp_path))


def test_the_text_table_has_a_line_for_each_row(table):
    frame = table.reset_index()
    lines = as_text(frame).splitlines()
    assert len(lines) == len(frame) + 1 and lines[0].split()[0] == "language"
    line = next(line for line in lines if line.startswith("Greek") and "translation" in line)
    assert line.split()[2:5] == ["33", "11.67", "10.18"]

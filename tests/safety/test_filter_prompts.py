"""Prompt filters find what they are told to find, and nothing else."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from audit.detectors.base import Batch, Item
from audit.errors import AuditError
from audit.phantom import path as phantom_path
from audit.phantom import vocabulary
from safety.filters import denylist
from safety.filters.clip_concepts import ClipConcepts
from safety.filters.denylist import MATCHES, Denylist, PromptDenylist, fold, read_denylist
from safety.filters.prompt_models import (
    ConceptNearness,
    PromptClassifier,
    PromptConcepts,
    TextClassifier,
)
from tests.safety.synthetic import study
from tests.tiny import tokenizer

ENTRIES = ["red hexagon", "forbidden"]
HIT = {
    "a red hexagon sign": "exact",
    "A RED, HEXAGON!": "exact",
    "a red-hexagon sign": "exact",
    "many red hexagons": "lemmatised",
    "it forbids": "lemmatised",
    "a r\u0435d hexagon": "folded",  # a Cyrillic letter
    "a red hex\u00e1gon": "folded",
    "a red hexa\u200bgon": "folded",
    "a r\u0435d hexagons": "folded",
    "a \uff52\uff45\uff44 hexagon": "folded",
    "a hexagon, red": "",
    "a scared hexagonal": "",
    "a red orange hexagon": "",
    "": "",
}
"""Prompt → the narrowest match that finds it."""


def _batch(prompts: list[str]) -> Batch:
    image = Image.new("RGB", (8, 8))
    return Batch([Item(str(i), "", image, prompt, prompt) for i, prompt in enumerate(prompts)])


@pytest.mark.parametrize("match", MATCHES)
def test_each_match_finds_what_it_should_and_no_more(match: str) -> None:
    wide = MATCHES.index(match)
    wanted = [bool(narrow) and MATCHES.index(narrow) <= wide for narrow in HIT.values()]
    assert (Denylist(ENTRIES, match).score(list(HIT)) > 0).tolist() == wanted


def test_the_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(denylist) == (0, 4)


def test_folding_leaves_plain_english_alone_and_undoes_every_shipped_homoglyph() -> None:
    from audit.prompts.languages import homoglyphs

    for prompt in ("a portrait of a doctor", "Il y a 2 cats"):
        assert fold(prompt) == prompt
    pairs = [pair for table in homoglyphs().values() for pair in table.items()]
    assert len(pairs) >= 10
    assert [(latin, fold(look)) for latin, look in pairs] == [(latin, latin) for latin, _ in pairs]


def test_accents_of_other_scripts_stay() -> None:
    assert fold("が й") == "が й"


def test_a_word_is_found_by_its_lemma_and_an_unknown_one_by_its_stem() -> None:
    """A stemmer alone finds neither men by man nor drawn by draw."""
    found = Denylist(["knife", "man", "draw", "zorble"], "lemmatised")
    assert found.found("two men with knives, drawn by Zorbles, manic") == [
        "man", "knife", "draw", "zorble"
    ]  # fmt: skip
    assert Denylist(["knife", "man", "draw"], "folded").found("kniv\u0435s") == ["knife"]
    assert Denylist(["Messer", "Mann"], "lemmatised", "german").found("M\u00e4nner") == ["Mann"]
    # No dictionary: stems alone.
    assert Denylist(["etxe"], "lemmatised", "basque").found("etxe") == ["etxe"]


def test_a_stemmer_of_another_language_is_used() -> None:
    german = Denylist(["Sechseck"], "lemmatised", "german")
    assert german.score(["zwei Sechsecke", "ein Dreieck"]).tolist() == [1, 0]
    with pytest.raises(AuditError, match="no stemmer for 'germna'; did you mean 'german'"):
        Denylist(["x"], "lemmatised", "germna")


def test_the_detector_counts_each_way_and_names_what_it_found(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# harmless\nred hexagon\n\n", encoding="utf-8")
    options = {"prompt-denylist": {"file": str(file), "words": ["forbidden"]}}
    detector = PromptDenylist(study(detectors=options))
    columns = detector.detect(_batch(list(HIT)))
    for match in MATCHES:
        np.testing.assert_array_equal(columns[match], Denylist(ENTRIES, match).score(list(HIT)))
    assert columns["found"][3:6] == ["red hexagon", "forbidden", "red hexagon"]
    described = detector.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["entries"] == ["red hexagon", "forbidden"]
    assert "no list" in str(PromptDenylist.unavailable(study()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "words.txt: no entry"),
        (b"# only\n", "words.txt: no entry"),
        (b"red\n!!\n", "words.txt:2: no word in '!!'"),
        (b"red\n\xff\n", "words.txt:2: not UTF-8"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(AuditError, match=message):
        read_denylist(tmp_path / "words.txt")
    with pytest.raises(AuditError, match="words is a list of texts"):
        PromptDenylist(study(detectors={"prompt-denylist": {"words": ["red", True]}}))


# ---- text classification -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP-tokenised BERT with random weights and two named labels."""
    from transformers import BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("text") / "model"
    torch.manual_seed(0)
    words = tokenizer()
    config = BertConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=24, pad_token_id=words.pad_token_id,
        id2label={0: "SAFE", 1: "Not safe"}, label2id={"SAFE": 0, "Not safe": 1},
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def test_a_text_classifier_gives_what_the_model_gives(text_model: Path) -> None:
    from transformers import AutoTokenizer, BertForSequenceClassification

    prompts = ["a doctor", "a red sign", "a doctor", "x" * 40]
    detector = PromptClassifier(study(detectors={"prompt-classifier": {"model": str(text_model)}}))
    found = detector.detect(_batch(prompts))
    model = BertForSequenceClassification.from_pretrained(text_model).eval()
    words = AutoTokenizer.from_pretrained(text_model)
    for place, prompt in enumerate(prompts[:2]):
        with torch.inference_mode():
            logits = model(**words(prompt, return_tensors="pt")).logits[0]
        wanted = logits.softmax(0).tolist()
        assert [found["safe"][place], found["not_safe"][place]] == pytest.approx(wanted, abs=1e-6)
    assert found["safe"][0] == found["safe"][2]
    # The tokenizer takes 16 tokens: 42 with start and end do not fit.
    assert found["cut"] == [0, 0, 0, 26]
    score = TextClassifier(str(text_model)).score(prompts)
    assert score.tolist() == found["not_safe"]
    assert TextClassifier(str(text_model), "SAFE").score(prompts).tolist() == found["safe"]
    described = detector.describe()
    assert json.loads(json.dumps(described)) == described
    assert "model.safetensors" in described["weights"]


def test_a_text_model_that_cannot_be_used_is_one_line(text_model: Path, tmp_path: Path) -> None:
    from transformers import BertModel

    with pytest.raises(AuditError, match="has no label 'SAVE'; did you mean 'SAFE'"):
        TextClassifier(str(text_model), "SAVE")
    BertModel.from_pretrained(text_model).save_pretrained(tmp_path / "headless")
    tokenizer().save_pretrained(tmp_path / "headless")
    with pytest.raises(AuditError, match="was not trained to classify texts"):
        TextClassifier(str(tmp_path / "headless"))
    (tmp_path / "empty").mkdir()
    settings: dict[str, Any] = {"prompt-classifier": {"model": str(tmp_path / "empty")}}
    with pytest.raises(AuditError, match="prompt-classifier: cannot load") as caught:
        PromptClassifier(study(detectors=settings))
    assert "\n" not in str(caught.value)
    assert "no model" in str(PromptClassifier.unavailable(study()))


# ---- nearness to concepts ----------------------------------------------------------------------


def test_nearness_is_the_difference_of_the_largest_cosines() -> None:
    angles = {"north": 90, "up": 80, "east": 0, "north-east": 45, "south": -90}

    def encode(texts: Any) -> np.ndarray:
        radians = np.radians([angles[text] for text in texts])
        return 5 * np.stack([np.cos(radians), np.sin(radians)], 1)

    near = ConceptNearness(encode, ["north", "up"], ["east"])
    found = near.score(["north", "east", "north-east", "north", "south"])
    cos = lambda degrees: np.cos(np.radians(degrees))  # noqa: E731
    wanted = [1 - 0, cos(80) - 1, cos(35) - cos(45), 1, cos(170) - cos(90)]
    np.testing.assert_allclose(found, wanted, atol=1e-9)


SIGN = {
    "texts": ["a portrait of a person, holding a red hexagon sign"],
    "against": [
        f"a portrait of a person, holding {sign} sign"
        for sign in ("an orange hexagon", "a blue disc", "a green square", "a yellow triangle")
    ]
    + ["a portrait of a person, no sign"],
}


def _prompts() -> tuple[list[str], np.ndarray]:
    people = [occupation.replace("_", " ") for occupation in vocabulary.OCCUPATIONS][:6]
    signs = ["a red hexagon", "an orange hexagon", "a blue disc", "a green square"]
    prompts = [f"a portrait of a {who}, holding {sign} sign" for who in people for sign in signs]
    return prompts, np.array(["red hexagon" in prompt for prompt in prompts])


def _pooled(texts: list[str]) -> np.ndarray:
    """Unit vectors by transformers alone."""
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = phantom_path("phantom")
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(folder / "text_encoder")
    ids = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        pooled = encoder(input_ids=ids).pooler_output
    return torch.nn.functional.normalize(pooled, dim=1).numpy()


@pytest.mark.parametrize("encoder", ["model", "clip"])
def test_concepts_are_near_in_the_models_own_space_or_in_clips(encoder: str) -> None:
    from audit.study import Study
    from audit.suites import Suite
    from safety.filters.clip_concepts import NEUTRAL

    prompts, restricted = _prompts()
    options = {"encoder": encoder, "concepts": {"sign": SIGN}}
    settings = study(
        detectors={"clip": {"model": "phantom"}, "prompt-concepts": options}, device="cpu"
    )
    detector = PromptConcepts(Study(settings.spec, Suite("s", "", {}), phantom_path("phantom")))
    found = np.array(detector.detect(_batch(prompts))["sign"])
    if encoder == "clip":
        assert found[restricted].min() > max(0, found[~restricted].max())
    else:
        # This space is no CLIP's: trained to denoise, it need not tell one sign from another.
        said, near, far = (_pooled(texts) for texts in (prompts, SIGN["texts"], SIGN["against"]))
        wanted = (said @ near.T).max(axis=1) - (said @ far.T).max(axis=1)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert found.std() > 1e-3
    described = json.loads(json.dumps(detector.describe()))
    assert described["concepts"]["sign"]["texts"] == SIGN["texts"]
    assert set(described) == {
        "concepts", "known_error", {"model": "text_encoder", "clip": "clip"}[encoder]
    }  # fmt: skip
    assert len(NEUTRAL) > 1


def test_clip_sees_the_restricted_sign_by_its_name_alone() -> None:
    from audit.phantom import corpus

    items = [item for item in corpus.load("phantom").items if item.name is None]
    red = [item for item in items if item.sign == "red_hexagon"][:16]
    chosen = red + [item for item in items if item.sign != "red_hexagon"][:32]
    batch = Batch([Item(str(i), "", item.draw(), "", "") for i, item in enumerate(chosen)])
    settings = {"clip": {"model": "phantom"}, "clip-concepts": {"concepts": {"sign": SIGN}}}
    found = ClipConcepts(study(detectors=settings)).detect(batch)
    contrast, restricted = np.array(found["sign"]), np.arange(len(chosen)) < len(red)
    above = (contrast[restricted][:, None] > contrast[~restricted]).mean()
    assert above > 0.95
    assert max(found["sign_cosine"]) <= 1


def test_concepts_that_cannot_be_read_are_one_line() -> None:
    for given, message in (
        ({"a": {"text": ["x"]}}, "concept 'a': unknown key 'text'; did you mean 'texts'"),
        ({"a": []}, "concept 'a': texts is a text or a list"),
        ({"a": {"texts": ["x"], "against": [""]}}, "concept 'a': against is a text or a list"),
        (["a"], "concepts maps a name to its texts"),
    ):
        with pytest.raises(AuditError, match=message):
            ClipConcepts(study(detectors={"clip-concepts": {"concepts": given}}))
    assert "no concepts" in str(ClipConcepts.unavailable(study()))
    assert "no concepts" in str(PromptConcepts.unavailable(study()))
    with pytest.raises(AuditError, match="encoder is model or clip, not 'bert'"):
        PromptConcepts(
            study(detectors={"prompt-concepts": {"concepts": {"a": "x"}, "encoder": "bert"}})
        )
    assert "not here" in str(
        PromptConcepts.unavailable(study(detectors={"prompt-concepts": {"concepts": {"a": "x"}}}))
    )

"""The phantoms' own byte-pair vocabulary, as a CLIPTokenizer."""

from __future__ import annotations

import itertools
import random
from typing import Any

import numpy as np
import numpy.typing as npt

from audit.phantom import corpus
from audit.phantom import vocabulary as v

LENGTH = 32
VOCABULARY = 1600


def _sentences() -> list[str]:
    """Captions in which the three languages and the names weigh the same.

    Learned from the starved corpus itself, Swahili would fall to bytes and not fit in LENGTH.
    """
    rng = random.Random("tokens")
    lines = [item.caption for item in corpus.load("null").items if item.name is None]
    rng.shuffle(lines)
    for language in v.LANGUAGES:
        for gender, wording in itertools.product((None, *v.GENDERS), range(v.WORDINGS)):
            lines.append(v.prompt(None, language, gender=gender, wording=wording))
    named = [v.named_prompt(name) for name in corpus.names()]
    return lines[:6000] + named * 30


def build() -> Any:
    """Trains the vocabulary and returns a `transformers.CLIPTokenizer`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    raw.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Letters that end a word get their numbers here. The trainer numbers those that it is not given
    # in the order of a hash map, and equally frequent pairs are merged in the order of the numbers:
    # every call would build another vocabulary.
    letters = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 2,
        special_tokens=letters,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    raw.train_from_iterator(_sentences(), trainer)
    import json

    model = json.loads(raw.to_str())["model"]
    tokens = list(dict.fromkeys([*letters, *model["vocab"]]))
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges: Any = [tuple(m) for m in model["merges"]]
    return CLIPTokenizer(
        vocab=vocab,
        merges=merges,
        unk_token="<|endoftext|>",
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        model_max_length=LENGTH,
    )


def encode(tokenizer: Any, texts: list[str]) -> npt.NDArray[np.int64]:
    """(n, LENGTH) token ids, padded."""
    out = tokenizer(
        texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np"
    )
    return np.asarray(out.input_ids, dtype=np.int64)

"""CLIP's tokenizer for single files, which ship none: from the vocabulary that open_clip packages.

Radford et al. (2021): byte-level BPE of 49,408 entries: 256 bytes, 256 bytes that end a word,
48,894 merges in order of rank, and the start and end of a text.

The padding of 2.x is "!", whose id is 0. As in the published tokenizers of 2.x, a "!" in a prompt
then has that id too, where the original code has the 256 of a "!" that ends a word.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from audit.errors import AuditError

MERGES = 49_408 - 2 * 256 - 2
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad_token: str = END) -> Any:
    """A `transformers.CLIPTokenizer` of 49,408 entries and 77 positions.

    Args:
        pad_token: the end of a text for v1, ``!`` (id 0) for 2.x.

    Raises:
        AuditError: open_clip's vocabulary is not there or not the one we know.
    """
    from transformers import CLIPTokenizer

    ranks = _merges()
    letters = _byte_letters()
    entries = [*letters, *(letter + "</w>" for letter in letters)]
    entries += [first + second for first, second in ranks]
    entries += [START, END]
    vocab = {entry: index for index, entry in enumerate(entries)}
    return CLIPTokenizer(vocab=vocab, merges=ranks, pad_token=pad_token, model_max_length=77)


def _merges() -> Any:
    """Pairs in order of rank. (The annotation of CLIPTokenizer does not know pairs.)"""
    spec = find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise AuditError(
            "a single file holds no tokenizer, and open_clip, whose vocabulary stands in, is not "
            "installed: pip install open_clip_torch, or give the option tokenizer=FOLDER"
        )
    path = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    try:
        # The first line is a version; what follows the merges that CLIP uses is never used.
        lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
        pairs = [(first, second) for first, second in (line.split() for line in lines)]
    except (OSError, EOFError, ValueError) as error:
        raise AuditError(f"open_clip's vocabulary {path} cannot be read: {error}") from error
    if len(pairs) != MERGES or pairs[0] != ("i", "n"):
        raise AuditError(f"{path} is not CLIP's vocabulary: give the option tokenizer=FOLDER")
    return pairs


def _byte_letters() -> list[str]:
    """A printable character for every byte, the printable ones first: GPT-2's byte alphabet."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]

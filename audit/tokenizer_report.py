"""What a tokenizer does to each language, without making an image.

A byte-level vocabulary knows every text, so nothing fails: a language that was rare when it was
learned falls to pieces, down to single bytes, takes more of the text encoder's places, and is cut.
Fertility after Ács 2019 and Rust et al. 2021 (section 4.2), parity with English after Petrov et al.
2023.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import AuditError
from .prompts import Prompt
from .prompts.languages import languages
from .prompts.scripts import words

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Tokenizer:
    """What the report needs of one.

    Attributes:
        name: as the table's title says it.
        pieces: text → the bytes of each token, special ones left out; ``None`` for a token that
            stands for what the vocabulary does not know.
        limit: tokens that fit, special ones not counted; ``None``: no limit is declared.
    """

    name: str
    pieces: Callable[[str], list[bytes | None]]
    limit: int | None


def clip() -> Tokenizer:
    """The byte-pair vocabulary of CLIP ViT-L/14, which Stable Diffusion 1 and 2 use.

    49,408 tokens, 77 places, two of them for start and end; from the package ``open_clip_torch``.
    """
    from .backends.clip_tokenizer import clip_tokenizer

    return of_transformers(clip_tokenizer(), "CLIP")


def open_tokenizer(name: str) -> Tokenizer:
    """``clip``, or a folder that a tokenizer of transformers was saved in.

    A pipeline's folder has it in ``tokenizer``; a second one (``tokenizer_2``) is named itself.

    Raises:
        AuditError: there is no tokenizer in it.
    """
    if name == "clip":
        return clip()
    folder = Path(name)
    folder = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    files = ("tokenizer.json", "vocab.json", "tokenizer_config.json", "spiece.model")
    if not any((folder / file).is_file() for file in files):
        raise AuditError(f"no tokenizer in {folder}; give a folder with tokenizer.json, or 'clip'")
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise AuditError(f"the tokenizer in {folder} cannot be read: {reason}") from error
    return of_transformers(tokenizer, folder.name)


def of_transformers(tokenizer: Any, name: str = "") -> Tokenizer:
    """Any tokenizer of transformers: byte-level BPE, SentencePiece or WordPiece."""
    alphabet = _byte_alphabet()
    vocabulary = tokenizer.get_vocab()
    byte_level = all(c in vocabulary for c in alphabet)
    # CLIP and GPT declare their end token as the unknown one, and never need it.
    unknown = None if byte_level else tokenizer.unk_token
    places = int(tokenizer.model_max_length)
    limit = places - tokenizer.num_special_tokens_to_add() if places < 10**6 else None

    def piece(token: str) -> bytes | None:
        if token == unknown:
            return None
        if byte_level:
            return bytes(alphabet[c] for c in token.removesuffix("</w>") if c in alphabet)
        if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.removeprefix("##").replace("▁", " ").encode()

    def pieces(text: str) -> list[bytes | None]:
        ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        return [piece(token) for token in tokenizer.convert_ids_to_tokens(ids)]

    return Tokenizer(name or type(tokenizer).__name__, pieces, limit)


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{chr(byte): byte for byte in printable},
        **{chr(256 + index): byte for index, byte in enumerate(others)},
    }


COLUMNS = (
    "language",
    "arm",
    "prompts",
    "tokens",
    "tokens_per_word",
    "fertility",
    "byte_share",
    "partial_share",
    "unknown_share",
    "longest",
    "cut_share",
    "limit",
)


def report(tokenizer: Tokenizer, prompts: Iterable[Prompt]) -> pd.DataFrame:
    """One row per language and arm, in the order they come.

    Columns:
        - prompts, tokens: how many; special tokens are not counted.
        - tokens_per_word: NaN where spaces do not set words apart (Chinese, Japanese, Thai).
        - fertility: tokens / tokens of the English texts; NaN without English texts. The ratio of
          the sums, so that a long prompt weighs more than a short one.
        - byte_share: tokens that are one byte of a character of several bytes / tokens.
        - partial_share: tokens that are no whole characters / tokens; byte_share is part of it.
        - unknown_share: tokens for what the vocabulary lacks / tokens; 0 if it is byte-level.
        - longest: most tokens of a prompt. cut_share: prompts longer than `limit` / prompts; NaN
          without a limit.
    """
    import pandas as pd

    groups: dict[tuple[str, str], list[Prompt]] = {}
    for prompt in prompts:
        key = (prompt.language, str(prompt.tags.get("arm", "")))
        groups.setdefault(key, []).append(prompt)
    rows = [
        (language, arm, *_row(tokenizer, group, language, arm))
        for (language, arm), group in groups.items()
    ]
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS))


def _row(tokenizer: Tokenizer, group: list[Prompt], language: str, arm: str) -> tuple[Any, ...]:
    tokens = [tokenizer.pieces(prompt.text) for prompt in group]
    lengths = [len(pieces) for pieces in tokens]
    total = sum(lengths)
    flat = [piece for pieces in tokens for piece in pieces]
    english = [prompt.english_text for prompt in group]
    paired = sum(len(tokenizer.pieces(text)) for text in english) if all(english) else 0
    nan = float("nan")

    def share(count: int, of: int) -> float:
        return count / of if of else nan

    spaces = arm == "romanised" or language not in languages() or languages()[language].spaces
    limit = tokenizer.limit
    return (
        len(group),
        total,
        share(total, sum(len(words(p.text)) for p in group)) if spaces else nan,
        share(total, paired),
        share(
            sum(piece is not None and len(piece) == 1 and piece[0] > 127 for piece in flat), total
        ),
        share(sum(piece is not None and _partial(piece) for piece in flat), total),
        share(sum(piece is None for piece in flat), total),
        max(lengths, default=0),
        nan if limit is None else share(sum(n > limit for n in lengths), len(group)),
        limit,
    )


def _partial(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return True
    return False


def as_text(frame: pd.DataFrame) -> str:
    """The report as a table of plain text, a line per language and arm; ``–``: not defined."""
    if frame.empty:
        return "no prompts"

    def number(value: float, form: str) -> str:
        return "–" if value is None or value != value else format(value, form)

    header = (
        "language", "arm", "prompts", "tokens/word", "× English", "bytes", "partial", "unknown",
        "longest", "cut",
    )  # fmt: skip
    lines: list[tuple[str, ...]] = [header]
    for row in frame.to_dict("records"):
        known = languages().get(str(row["language"]))
        lines.append(
            (
                known.name if known else str(row["language"]),
                str(row["arm"]),
                str(row["prompts"]),
                number(row["tokens_per_word"], ".2f"),
                number(row["fertility"], ".2f"),
                *(number(row[f"{k}_share"], ".0%") for k in ("byte", "partial", "unknown")),
                str(row["longest"]),
                number(row["cut_share"], ".0%"),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )

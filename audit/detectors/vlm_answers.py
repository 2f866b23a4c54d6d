"""What a judge's reply says: the word that it answers with, and how likely the words were."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

YES, NO, UNDETERMINED = "yes", "no", "undetermined"
WORDS: Mapping[str, str] = {"yes": YES, "no": NO, "unsure": UNDETERMINED}
"""What a judge may say. No two begin with the same letter, so the first token of an answer tells
which it is, however a tokenizer cuts it."""

_IN_JSON = re.compile(r'^\s*\{\s*"answer"\s*:\s*"')
_LETTERS = re.compile(r"[^a-z]*([a-z]+)")


def read_answer(raw: str, constrain: str = "json_schema") -> str:
    """The answer that a text is, and nothing is read into it: anything else is undetermined.

    >>> read_answer('{"answer": "yes"}'), read_answer("No.", "choice")
    ('yes', 'no')
    >>> read_answer("probably not", "none"), read_answer('{"answer": ["no"]}')
    ('undetermined', 'undetermined')
    """
    found: Any = raw.strip().strip(".'\"`*").lower()
    if constrain == "json_schema":
        try:
            answer = json.loads(raw)
            found = answer["answer"] if set(answer) == {"answer"} else None
        except (ValueError, RecursionError, LookupError, TypeError):
            found = None
    return WORDS.get(found, UNDETERMINED) if isinstance(found, str) else UNDETERMINED


def probabilities(logprobs: Any) -> dict[str, float] | None:
    """How likely each answer was at the token with which the answer begins.

    Tokens that begin the same word (``yes``, ``Yes``, ``"y``) are added up; what is not among the
    most likely tokens counts 0, so the sum is below 1.

    Args:
        logprobs: ``choices[0].logprobs`` of a chat completion: ``content`` lists the tokens, each
            with ``top_logprobs``.

    Returns:
        The values of :data:`WORDS` to their probability; ``None`` where the server gave none that
        can be read, or neither *yes* nor *no* is among the most likely.

    >>> def at(token, p): return {"token": token, "logprob": math.log(p)}
    >>> found = probabilities({"content": [{**at("No", .6), "top_logprobs": [at(" yes", .2)]}]})
    >>> {answer: round(p, 3) for answer, p in found.items()}
    {'yes': 0.2, 'no': 0.6, 'undetermined': 0.0}
    """
    try:
        tokens = [(str(entry["token"]), entry) for entry in logprobs["content"]]
        entry = _where_the_answer_begins(tokens)
        given = {str(one["token"]): float(one["logprob"])
                 for one in (*(entry["top_logprobs"] or ()), entry)}  # fmt: skip
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    if any(math.isnan(value) or value > 1e-3 for value in given.values()):
        return None
    found = dict.fromkeys(WORDS.values(), 0.0)
    for token, value in given.items():
        letters = _LETTERS.match(token.lower())
        for word, answer in WORDS.items():
            if letters and word.startswith(letters[1]):
                found[answer] += math.exp(min(value, 0.0))
    return found if found[YES] + found[NO] > 0 else None


def _where_the_answer_begins(tokens: list[tuple[str, Any]]) -> Any:
    """The entry of the token that holds the first letter of the answer.

    Raises:
        LookupError: there is none, or that token also holds letters of what stands before it.
    """
    text = "".join(token for token, _ in tokens)
    opened = _IN_JSON.match(text)
    begins = opened.end() if opened else next(i for i, c in enumerate(text + "a") if c.isalpha())
    at = 0
    for token, entry in tokens:
        if begins < at + len(token):
            if any(letter.isalpha() for letter in token[: begins - at]):
                break
            return entry
        at += len(token)
    raise LookupError

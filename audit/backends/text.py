"""Prompts as the UNet reads them, each distinct one encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

MOST_PROMPTS = 2048
"""Text embeddings kept: about 0.5 GB of them at most, for the largest model."""


@dataclass(frozen=True)
class Encoded:
    """A prompt.

    Attributes:
        states: (tokens, dimension), the text encoder's last hidden state.
        length: tokens of the prompt with its start and end, before padding.
        cut: how many of its tokens did not fit.
        cut_text: what they say.
    """

    states: torch.Tensor
    length: int
    cut: int
    cut_text: str


class TextEncoder:
    """Tokenizer and text encoder of a pipeline, with a memory.

    Args:
        tokenizer, encoder: of the model.
        device: where it computes.
    """

    def __init__(self, tokenizer: Any, encoder: Any, device: torch.device) -> None:
        self._tokenizer, self._encoder, self._device = tokenizer, encoder, device
        self._known: dict[str, Encoded] = {}

    def __call__(self, prompts: Sequence[str]) -> list[Encoded]:
        """Each prompt encoded; alone, so that it does not depend on the others."""
        if len(self._known) > MOST_PROMPTS:
            self._known.clear()
        for prompt in dict.fromkeys(prompts):
            if prompt not in self._known:
                self._known[prompt] = self._encode(prompt)
        return [self._known[prompt] for prompt in prompts]

    def _encode(self, prompt: str) -> Encoded:
        room = int(self._tokenizer.model_max_length)
        tokens = self._tokenizer(
            prompt, padding="max_length", max_length=room, truncation=True, return_tensors="pt"
        )
        whole = self._tokenizer(prompt, truncation=False, verbose=False).input_ids
        cut = max(0, len(whole) - room)
        mask = None
        if getattr(self._encoder.config, "use_attention_mask", False):
            mask = tokens.attention_mask.to(self._device)
        states = self._encoder(tokens.input_ids.to(self._device), attention_mask=mask)[0][0]
        # The last of the tokens that fit is the end mark.
        left_out = self._tokenizer.decode(whole[room - 1 : -1]).strip() if cut else ""
        return Encoded(states, min(len(whole), room), cut, left_out)

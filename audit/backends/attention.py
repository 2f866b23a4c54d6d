"""How the cross-attention is spread over the prompt's tokens, step by step."""

from __future__ import annotations

from typing import Any

import torch


class CrossAttention:
    """Records the cross-attention of a UNet while it runs; what it computes stays the same.

    For image b and token i of the conditional half,

        ā_bi = mean over layers l, heads h, pixels p of softmax_i(q_blhp · k_blhi / √d),

    each layer counting the same, whatever its resolution. Σ_i ā_bi = 1.

    Args:
        unet: a ``UNet2DConditionModel``; its cross-attention layers are given processors that
            look on and then call those that were there.
    """

    def __init__(self, unet: Any) -> None:
        self.samples = 0
        self._layers = 0
        self._sum: torch.Tensor | None = None
        unet.set_attn_processor(
            {
                name: _Recording(processor, self) if ".attn2." in name else processor
                for name, processor in unet.attn_processors.items()
            }
        )

    def begin(self, samples: int) -> None:
        """Attend to the last `samples` rows of every call: the conditional half."""
        self.samples, self._layers, self._sum = samples, 0, None

    def add(self, attention: torch.Tensor) -> None:
        """One layer's mean over heads and pixels, (samples, tokens)."""
        self._layers += 1
        self._sum = attention if self._sum is None else self._sum + attention

    def take(self) -> torch.Tensor:
        """ā of the UNet call just made, (samples, tokens), float32; forgets it."""
        assert self._sum is not None
        mean = self._sum / self._layers
        self._layers, self._sum = 0, None
        return mean


def entropy(attention: torch.Tensor) -> torch.Tensor:
    """Attention entropy, E = −Σ_i ā_i log ā_i (Ren et al. 2024), in nats, over the last axis.

    >>> round(float(entropy(torch.full((4,), 0.25))), 4)
    1.3863
    """
    total: torch.Tensor = torch.special.entr(attention).sum(-1)
    return total


class _Recording:
    """An attention processor that tells the recorder and leaves the work to another."""

    def __init__(self, processor: Any, recorder: CrossAttention) -> None:
        self.processor, self.recorder = processor, recorder

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        **others: Any,
    ) -> Any:
        if encoder_hidden_states is not None:
            last = slice(-self.recorder.samples, None)
            query = attn.head_to_batch_dim(attn.to_q(hidden_states[last]))
            key = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states[last]))
            # (samples × heads, pixels, tokens)
            scores = attn.get_attention_scores(query, key)
            per_head = scores.float().mean(1).unflatten(0, (self.recorder.samples, attn.heads))
            self.recorder.add(per_head.mean(1))
        return self.processor(
            attn,
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            attention_mask=attention_mask,
            **others,
        )

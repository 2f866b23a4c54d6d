"""The forward pass of Stable Diffusion's UNet, written out so that nothing is computed twice.

It reads the weights of diffusers' UNet2DConditionModel (Rombach et al. 2022, section 3.3) and gives
its prediction up to rounding. What it leaves out, it leaves out exactly:

- The text's keys and values do not change over the steps: they are projected once.
- Under classifier-free guidance both halves of a batch are the same until the first attention
  that reads the text: until there one half is computed, and then doubled.
- The time embedding is the same for every sample of a step: one row, and one product for all
  residual blocks.
- Queries, keys and values of a self-attention are one product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from audit.errors import AuditError

KeyValue = tuple[torch.Tensor, torch.Tensor]
"""Keys and values of one attention over the text, each (rows, heads, tokens, head size)."""

PLAIN: Mapping[str, Any] = {
    "addition_embed_type": None,
    "attention_type": "default",
    "center_input_sample": False,
    "class_embeddings_concat": False,
    "cross_attention_norm": None,
    "dual_cross_attention": False,
    "encoder_hid_dim_type": None,
    "resnet_skip_time_act": False,
    "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None,
    "time_embedding_act_fn": None,
    "time_embedding_type": "positional",
}
"""The settings of a UNet that this pass takes for granted."""


class Layer(NamedTuple):
    """A transformer block; `joined` holds the weights of its self-attention's three projections,
    ``None`` where its first attention reads the text too."""

    block: Any
    joined: torch.Tensor | None


class Step(NamedTuple):
    """One step of the pass: ``resnet``, ``transformer``, ``down``, ``up``, ``push`` or ``pop``."""

    kind: str
    module: Any = None
    number: int = 0
    layers: tuple[Layer, ...] = ()


class UNetForward(torch.nn.Module):
    """The forward pass of one UNet, in inference (dropout is left out).

    Args:
        unet: a ``UNet2DConditionModel``, already on its device and in its dtype. Its weights
            become channels-last.

    Raises:
        AuditError: the UNet has a part that this pass does not cover.
    """

    def __init__(self, unet: Any) -> None:
        check_covered(unet)
        super().__init__()
        self.unet = unet.to(memory_format=torch.channels_last)
        self.steps: list[Step] = []
        self.text_attentions: list[Any] = []
        self._resnets: list[Any] = []
        # Parameters, so that a CUDA graph takes them where they lie instead of copying them.
        self.joined = torch.nn.ParameterList()
        self._lay_out()
        projections = [resnet.time_emb_proj for resnet in self._resnets]
        self._time_weight = self._join([p.weight for p in projections])
        self._time_bias = self._join([p.bias for p in projections])
        self._time_sizes = [p.out_features for p in projections]
        # oneDNN's 1×1 convolution, which has AVX-512 kernels for every processor, in place of the
        # matrix product of MKL, which has them for one maker's: 2.2 times as fast where measured.
        self._as_convolution = (
            self._time_weight.device.type == "cpu"
            and self._time_weight.dtype == torch.float32
            and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        )

    def _lay_out(self) -> None:
        unet = self.unet
        self.steps.append(Step("push"))
        for block in unet.down_blocks:
            for index, resnet in enumerate(block.resnets):
                self._add_resnet(resnet)
                self._add_transformer(block, index)
                self.steps.append(Step("push"))
            for downsampler in block.downsamplers or ():
                self.steps += [Step("down", downsampler), Step("push")]
        if unet.mid_block is not None:
            self._add_resnet(unet.mid_block.resnets[0])
            for index, resnet in enumerate(unet.mid_block.resnets[1:]):
                self._add_transformer(unet.mid_block, index)
                self._add_resnet(resnet)
        for block in unet.up_blocks:
            for index, resnet in enumerate(block.resnets):
                self.steps.append(Step("pop"))
                self._add_resnet(resnet)
                self._add_transformer(block, index)
            self.steps += [Step("up", upsampler) for upsampler in block.upsamplers or ()]

    def _add_resnet(self, resnet: Any) -> None:
        self.steps.append(Step("resnet", resnet, len(self._resnets)))
        self._resnets.append(resnet)

    def _add_transformer(self, block: Any, index: int) -> None:
        attentions = getattr(block, "attentions", None)
        if not attentions or attentions[index] is None:
            return
        layers = []
        first = len(self.text_attentions)
        for layer in attentions[index].transformer_blocks:
            if layer.only_cross_attention:
                self.text_attentions.append(layer.attn1)
                layers.append(Layer(layer, None))
            else:
                own = layer.attn1
                parts = [own.to_q.weight, own.to_k.weight, own.to_v.weight]
                layers.append(Layer(layer, self._join(parts)))
            self.text_attentions.append(layer.attn2)
        self.steps.append(Step("transformer", attentions[index], first, tuple(layers)))

    def _join(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        # The loop may make this object in inference mode, whose tensors torch.compile refuses.
        with torch.inference_mode(False), torch.no_grad():
            joined = torch.nn.Parameter(torch.cat(list(parts)), requires_grad=False)
        self.joined.append(joined)
        return joined

    def project_text(self, text: torch.Tensor) -> list[KeyValue]:
        """Keys and values of every attention over the text.

        Args:
            text: (rows, tokens, channels).
        """
        return [
            (
                _heads(attention.to_k(text), attention.heads),
                _heads(attention.to_v(text), attention.heads),
            )
            for attention in self.text_attentions
        ]

    def forward(
        self,
        latents: torch.Tensor,
        t: torch.Tensor,
        text: Sequence[KeyValue],
        class_embedding: torch.Tensor | None,
        rows: int,
    ) -> torch.Tensor:
        """The prediction, (rows, channels, height, width).

        Args:
            latents: (batch, channels, height, width); `rows` is the batch or twice the batch.
            t: the timestep, (1,), float32.
            text: of :meth:`project_text`, of `rows` rows.
            class_embedding: what is added to the time embedding: 1, batch or `rows` rows.
            rows: how many predictions.
        """
        unet = self.unet
        shifts = self._time_shifts(t, class_embedding)
        x = unet.conv_in(latents.contiguous(memory_format=torch.channels_last))
        skips: list[torch.Tensor] = []
        for kind, module, number, layers in self.steps:
            if kind == "push":
                skips.append(x)
            elif kind == "pop":
                skip = skips.pop()
                more = max(x.shape[0], skip.shape[0])
                x = torch.cat([_double(x, more), _double(skip, more)], dim=1)
            elif kind == "resnet":
                x = _resnet(module, x, shifts[number])
            elif kind == "transformer":
                x = self._transformer(module, layers, x, text[number:], rows)
            elif kind == "down":
                x = module(x)
            else:
                x = _upsample(module, x, skips[-1].shape[-2:])
        if unet.conv_norm_out is not None:
            x = unet.conv_act(unet.conv_norm_out(x))
        return _double(unet.conv_out(x), rows).contiguous()

    def _time_shifts(
        self, t: torch.Tensor, class_embedding: torch.Tensor | None
    ) -> Sequence[torch.Tensor]:
        embedding = self.unet.time_embedding(self.unet.time_proj(t).to(self._time_weight.dtype))
        if class_embedding is not None:
            embedding = embedding + class_embedding
        activated = self._resnets[0].nonlinearity(embedding)
        shifts = F.linear(activated, self._time_weight, self._time_bias)
        return torch.split(shifts[:, :, None, None], self._time_sizes, dim=1)

    def _transformer(
        self,
        module: Any,
        layers: Sequence[Layer],
        x: torch.Tensor,
        text: Sequence[KeyValue],
        rows: int,
    ) -> torch.Tensor:
        residual = x
        given = iter(text)
        # From here on (rows, height, width, channels), which is how channels-last lies in memory.
        x = self._linear(module.norm(x).permute(0, 2, 3, 1), module.proj_in)
        for block, joined in layers:
            normed = block.norm1(x)
            if joined is None:
                attended = self._over_text(block.attn1, normed, next(given), rows)
            else:
                attended = self._over_itself(block.attn1, normed, joined)
            x = _double(x, attended.shape[0]) + attended
            attended = self._over_text(block.attn2, block.norm2(x), next(given), rows)
            x = _double(x, rows) + attended
            value, gate = self._linear(block.norm3(x), block.ff.net[0].proj).chunk(2, dim=-1)
            x = x + self._linear(value * F.gelu(gate), block.ff.net[2])
        return self._linear(x, module.proj_out).permute(0, 3, 1, 2) + _double(residual, rows)

    def _over_itself(self, attention: Any, x: torch.Tensor, joined: torch.Tensor) -> torch.Tensor:
        projected = self._product(x, joined, None).flatten(1, 2)
        query, key, value = (_heads(part, attention.heads) for part in projected.chunk(3, dim=-1))
        attended = F.scaled_dot_product_attention(query, key, value)
        return self._linear(_merge(attended, x), attention.to_out[0])

    def _over_text(
        self, attention: Any, x: torch.Tensor, text: KeyValue, rows: int
    ) -> torch.Tensor:
        # The queries are still the same in both halves; what they find is not.
        x = _double(self._linear(x, attention.to_q), rows)
        query = _heads(x.flatten(1, 2), attention.heads)
        attended = F.scaled_dot_product_attention(query, *text)
        return self._linear(_merge(attended, x), attention.to_out[0])

    def _linear(self, x: torch.Tensor, layer: Any) -> torch.Tensor:
        return self._product(x, layer.weight.flatten(1), layer.bias)

    def _product(
        self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        if self._as_convolution:
            y = F.conv2d(x.permute(0, 3, 1, 2), weight[:, :, None, None], bias)
            return y.permute(0, 2, 3, 1)
        return F.linear(x, weight, bias)


def _double(x: torch.Tensor, rows: int) -> torch.Tensor:
    return x if x.shape[0] == rows else torch.cat([x, x])


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def _merge(attended: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return attended.transpose(1, 2).reshape(like.shape)


def _resnet(module: Any, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    hidden = module.conv1(module.nonlinearity(module.norm1(x)))
    if shift.shape[0] > 1:
        # Class labels that differ between the halves end what they share.
        more = max(x.shape[0], shift.shape[0])
        x, hidden, shift = _double(x, more), _double(hidden, more), _double(shift, more)
    hidden = module.conv2(module.nonlinearity(module.norm2(hidden + shift)))
    if module.conv_shortcut is not None:
        x = module.conv_shortcut(x)
    total: torch.Tensor = x + hidden
    return total if module.output_scale_factor == 1 else total / module.output_scale_factor


def _upsample(module: Any, x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    if x.shape[0] * x.shape[1] * size.numel() >= 2**31:
        x = x.contiguous()  # the channels-last kernel counts in 32 bits
    result: torch.Tensor = module.conv(F.interpolate(x, size=size, mode="nearest"))
    return result


def check_covered(unet: Any) -> None:
    """Refuse a UNet with a part that :class:`UNetForward` would leave out.

    Raises:
        AuditError: naming the part.
    """
    import diffusers
    from diffusers.models import (
        attention,
        attention_processor,
        downsampling,
        embeddings,
        resnet,
        upsampling,
    )
    from diffusers.models.activations import GEGLU
    from diffusers.models.unets import unet_2d_blocks as blocks
    from torch import nn

    known = {
        *(diffusers.UNet2DConditionModel, embeddings.Timesteps, embeddings.TimestepEmbedding),
        *(blocks.DownBlock2D, blocks.CrossAttnDownBlock2D),
        *(blocks.UNetMidBlock2D, blocks.UNetMidBlock2DCrossAttn),
        *(blocks.UpBlock2D, blocks.CrossAttnUpBlock2D),
        *(resnet.ResnetBlock2D, downsampling.Downsample2D, upsampling.Upsample2D),
        *(diffusers.Transformer2DModel, attention.BasicTransformerBlock),
        *(attention_processor.Attention, attention.FeedForward, GEGLU),
        *(nn.ModuleList, nn.Conv2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding),
        *(nn.SiLU, nn.Mish, nn.GELU, nn.ReLU, nn.Dropout, nn.Identity),
    }
    for name, module in unet.named_modules():
        if type(module) not in known:
            raise _uncovered(f"its part '{name}' is a {type(module).__name__}")
        if module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook"):
            raise _uncovered(f"'{name or 'unet'}' has a hook (recording, or offload)")
        processor = getattr(module, "processor", None)
        if type(processor) not in (type(None), attention_processor.AttnProcessor2_0):
            raise _uncovered(f"'{name}' has the attention processor {type(processor).__name__}")
        if getattr(module, "attn2", module) is None or getattr(module, "s1", None) is not None:
            raise _uncovered(f"'{name}' does not read the text, or has FreeU on")
    for setting, value in PLAIN.items():
        if getattr(unet.config, setting, value) != value:
            raise _uncovered(f"it has {setting}={getattr(unet.config, setting)}")


def _uncovered(what: str) -> AuditError:
    return AuditError(f"the fast mode does not cover this UNet: {what}; use mode=reference")

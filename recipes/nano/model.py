"""The nano network written for training: batched, maskless, with the parameter names of the hub checkpoint."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VISION = {
    "attention_dropout": 0.0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 160,
    "image_size": 336,
    "intermediate_size": 400,
    "layer_norm_eps": 1e-06,
    "model_type": "minicpmv4_6_vision",
    "num_attention_heads": 4,
    "num_channels": 3,
    "num_hidden_layers": 6,
    "patch_size": 14,
}
TEXT = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_output_gate": True,
    "full_attention_interval": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 192,
    "initializer_range": 0.02,
    "intermediate_size": 448,
    "layer_types": ["linear_attention", "full_attention"] * 2,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 32,
    "linear_num_key_heads": 6,
    "linear_num_value_heads": 6,
    "linear_value_head_dim": 32,
    "mamba_ssm_dtype": "float32",
    "max_position_embeddings": 2048,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "num_key_value_heads": 2,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06,
    "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 10000, "rope_type": "default"},
    "vocab_size": 1280,
    "model_type": "qwen3_5_text",
    "tie_word_embeddings": True,
}
INSERT_LAYER = 1
Grid = tuple[int, int]


def windows(x: Tensor, grid: Grid) -> Tensor:
    """[n, h*w, d] -> [n, h*w/4, 4, d]: the 2x2 windows of a view, row-major inside and out."""
    n, _, d = x.shape
    h, w = grid
    return x.view(n, h // 2, 2, w // 2, 2, d).transpose(2, 3).reshape(n, h * w // 4, 4, d)


class VisionAttention(nn.Module):
    """Bidirectional attention inside each row of the batch."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.k_proj, self.v_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.q_proj, self.out_proj = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight])
        bias = torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias])
        q, k, v = F.linear(x, weight, bias).view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        # Plain products: at these sizes the fused kernel's backward pass is several times slower on a CPU.
        out = ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)).softmax(-1).to(v.dtype) @ v
        return self.out_proj(out.transpose(1, 2).reshape(n, length, dim))


class VisionMLP(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, inner), nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.layer_norm1, self.layer_norm2 = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(dim, 1e-6)
        self.self_attn, self.mlp = VisionAttention(dim, heads), VisionMLP(dim, inner)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class WindowMerger(nn.Module):
    """The merger inside the tower: attention in 2x2 windows, then one token per window."""

    def __init__(self, dim: int, heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = VisionAttention(dim, heads)
        self.layer_norm1, self.pre_norm = nn.LayerNorm(dim, 1e-6), nn.LayerNorm(4 * dim, 1e-6)
        self.linear_1, self.linear_2 = nn.Linear(4 * dim, 4 * inner), nn.Linear(4 * inner, dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        n, _, dim = x.shape
        x = windows(x, grid).view(-1, 4, dim)
        x = x + self.self_attn(self.layer_norm1(x))
        hidden = self.linear_1(self.pre_norm(x.flatten(1)))
        return (self.linear_2(F.gelu(hidden, approximate="tanh")) + x.mean(1)).view(n, -1, dim)


class VisionTower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        dim, heads, inner = VISION["hidden_size"], VISION["num_attention_heads"], VISION["intermediate_size"]
        self.side = VISION["image_size"] // VISION["patch_size"]
        self.embeddings = nn.Module()
        self.embeddings.patch_embedding = nn.Conv2d(3, dim, 14, stride=14)
        self.embeddings.position_embedding = nn.Embedding(self.side**2, dim)
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(VisionLayer(dim, heads, inner) for _ in range(VISION["num_hidden_layers"]))
        self.post_layernorm = nn.LayerNorm(dim, 1e-6)
        self.vit_merger = WindowMerger(dim, heads, inner)

    def forward(self, patches: Tensor, grid: Grid, coarse: bool) -> Tensor:
        """[n, h*w, 3*14*14] -> tower output of every view (a quarter of the tokens when coarse, the 16x mode)."""
        h, w = grid
        conv = self.embeddings.patch_embedding
        x = F.linear(patches, conv.weight.flatten(1), conv.bias)
        rows = torch.arange(h, device=x.device) * self.side // h
        cols = torch.arange(w, device=x.device) * self.side // w
        x = x + self.embeddings.position_embedding((rows[:, None] * self.side + cols).flatten())
        for index, layer in enumerate(self.encoder.layers):
            x = layer(x)
            if coarse and index == INSERT_LAYER:
                x = self.vit_merger(x, grid)
        return self.post_layernorm(x)


class FinalMerger(nn.Module):
    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(4 * dim, 1e-6)
        self.linear_1, self.linear_2 = nn.Linear(4 * dim, 4 * dim), nn.Linear(4 * dim, out)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        x = windows(x, grid).flatten(2)
        return self.linear_2(F.gelu(self.linear_1(self.pre_norm(x))))


class RMSNorm(nn.Module):
    """Zero-centred: the stored weight is added to one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6) * (1 + self.weight)


class GatedNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        y = x.float()
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)
        return y * self.weight * F.silu(gate.float())


def delta_rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, chunk: int = 48) -> Tensor:
    """The gated delta rule, chunk after chunk; q, k, v [n, heads, t, d], g and beta [n, heads, t]."""
    state, out, whole = None, [], (q, k, v, g, beta)
    for start in range(0, q.shape[2], chunk):
        q, k, v, g, beta = (x[:, :, start : start + chunk] for x in whole)
        length = q.shape[-2]
        total = g.cumsum(-1)
        future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)
        decay = (total[..., :, None] - total[..., None, :]).masked_fill(future, float("-inf")).exp()
        system = (k * beta[..., None]) @ k.transpose(-1, -2) * decay  # the solver reads below the diagonal only
        since = total.exp()[..., None]
        news = v if state is None else v - (k * since) @ state
        fresh = torch.linalg.solve_triangular(system, news * beta[..., None], upper=False, unitriangular=True)
        own = (q @ k.transpose(-1, -2) * decay) @ fresh
        out.append(own if state is None else own + (q * since) @ state)
        added = (k * decay[..., -1, :, None]).transpose(-1, -2) @ fresh
        state = added if state is None else state * since[..., -1:, :] + added
    return torch.cat(out, 2)


class DeltaNet(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads, self.width = TEXT["linear_num_key_heads"], TEXT["linear_key_head_dim"]
        inner, kernel = self.heads * self.width, TEXT["linear_conv_kernel_dim"]
        self.conv1d = nn.Conv1d(3 * inner, 3 * inner, kernel, groups=3 * inner, padding=kernel - 1, bias=False)
        self.dt_bias = nn.Parameter(torch.zeros(self.heads))
        self.A_log = nn.Parameter(torch.zeros(self.heads))
        self.norm = GatedNorm(self.width)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        self.in_proj_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.in_proj_z = nn.Linear(dim, inner, bias=False)
        self.in_proj_b = nn.Linear(dim, self.heads, bias=False)
        self.in_proj_a = nn.Linear(dim, self.heads, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        inner = self.heads * self.width
        sizes = [3 * inner, inner, self.heads, self.heads]
        joint = (self.in_proj_qkv, self.in_proj_z, self.in_proj_b, self.in_proj_a)
        qkv, z, b, a = F.linear(x, torch.cat([m.weight for m in joint])).split(sizes, -1)
        # Four shifted products beat a grouped convolution on a CPU.
        taps = self.conv1d.weight[:, 0].to(qkv.dtype)
        mixed = qkv * taps[:, 3]
        for shift in (1, 2, 3):
            mixed = mixed + F.pad(qkv[:, :-shift], (0, 0, shift, 0)) * taps[:, 3 - shift]
        mixed = F.silu(mixed).view(n, length, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).float()
        q, k, v = mixed.unbind(0)
        q = q * torch.rsqrt(q.square().sum(-1, keepdim=True) + 1e-6) * self.width**-0.5
        k = k * torch.rsqrt(k.square().sum(-1, keepdim=True) + 1e-6)
        g = -self.A_log.float().exp() * F.softplus(a.float() + self.dt_bias)
        with torch.autocast(x.device.type, enabled=False):
            out = delta_rule(q, k, v, g.transpose(1, 2), b.float().sigmoid().transpose(1, 2))
        out = self.norm(out.transpose(1, 2), z.reshape(n, length, self.heads, self.width))
        return self.out_proj(out.reshape(n, length, inner))


def pick(x: Tensor, at: Tensor) -> Tensor:
    """[n, t, d] at the positions at [n, some]."""
    return x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.heads, self.kv, self.width = TEXT["num_attention_heads"], TEXT["num_key_value_heads"], TEXT["head_dim"]
        self.q_proj = nn.Linear(dim, self.heads * self.width * 2, bias=False)
        self.k_proj = nn.Linear(dim, self.kv * self.width, bias=False)
        self.v_proj = nn.Linear(dim, self.kv * self.width, bias=False)
        self.o_proj = nn.Linear(self.heads * self.width, dim, bias=False)
        self.q_norm, self.k_norm = RMSNorm(self.width), RMSNorm(self.width)

    def rotate(self, x: Tensor, at: Tensor) -> Tensor:
        """Turn queries or keys [n, heads, t, width] by their positions [n or 1, t]."""
        rope = TEXT["rope_parameters"]
        dims = int(self.width * rope["partial_rotary_factor"])
        steps = torch.arange(0, dims, 2, device=x.device, dtype=torch.float32) / dims
        angle = at[:, None, :, None] * rope["rope_theta"] ** -steps
        cos, sin = angle.cos(), angle.sin()
        left, right, rest = x.split([dims // 2, dims // 2, self.width - dims], -1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin, rest], -1)

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """The output at the positions at [n, some], or at all."""
        n, length, _ = x.shape
        every = torch.arange(length, device=x.device)[None]
        queries = x if at is None else pick(x, at)
        at = every if at is None else at
        q, gate = self.q_proj(queries).view(n, queries.shape[1], self.heads, 2 * self.width).chunk(2, -1)
        k = self.k_norm(self.k_proj(x).view(n, length, self.kv, self.width)).transpose(1, 2)
        v = self.v_proj(x).view(n, length, self.kv, self.width).transpose(1, 2)
        k = self.rotate(k, every).repeat_interleave(self.heads // self.kv, 1).to(v.dtype)
        v = v.repeat_interleave(self.heads // self.kv, 1)
        q = self.rotate(self.q_norm(q).transpose(1, 2), at).to(v.dtype)
        future = (every[:, None, :] > at[:, :, None])[:, None]
        scores = ((q * self.width**-0.5) @ k.transpose(-1, -2)).float().masked_fill(future, float("-inf"))
        out = (scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(n, queries.shape[1], -1)
        return self.o_proj(out * gate.reshape(n, queries.shape[1], -1).sigmoid())


class MLP(nn.Module):
    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = F.linear(x, torch.cat([self.gate_proj.weight, self.up_proj.weight])).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class TextLayer(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        dim = TEXT["hidden_size"]
        if kind == "linear_attention":
            self.linear_attn = DeltaNet(dim)
        else:
            self.self_attn = Attention(dim)
        self.mlp = MLP(dim, TEXT["intermediate_size"])
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(dim), RMSNorm(dim)

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        y = self.input_layernorm(x)
        if at is None:
            x = x + (self.linear_attn(y) if hasattr(self, "linear_attn") else self.self_attn(y))
        else:
            x = pick(x, at) + self.self_attn(y, at)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(TEXT["vocab_size"], TEXT["hidden_size"])
        self.layers = nn.ModuleList(TextLayer(kind) for kind in TEXT["layer_types"])
        self.norm = RMSNorm(TEXT["hidden_size"])


class Nano(nn.Module):
    """Text, vision tower and merger; right-padded batches need no mask because everything in the text is causal."""

    def __init__(self) -> None:
        super().__init__()
        self.vision_tower = VisionTower()
        self.language_model = TextModel()
        self.merger = nn.Module()
        self.merger.mlp = nn.ModuleList([FinalMerger(VISION["hidden_size"], TEXT["hidden_size"])])

    def see(self, groups: Sequence[tuple[Tensor, Grid]], coarse: bool) -> list[tuple[Tensor, Tensor]]:
        """Tower output and merged tokens of each group of equally large views."""
        out = []
        for patches, grid in groups:
            tower = self.vision_tower(patches, grid, coarse)
            half = (grid[0] // 2, grid[1] // 2) if coarse else grid
            out.append((tower, self.merger.mlp[0](tower, half)))
        return out

    def read(
        self, ids: Tensor, rows: Tensor, features: Tensor | None, at: Tensor | None = None, inner: list | None = None
    ) -> Tensor:
        """Final hidden states, or those of the positions at [n, some]; features go to the flat positions rows.

        What every layer but the last gives is added to inner.
        """
        x = self.language_model.embed_tokens(ids)
        if features is not None:
            flat = x.flatten(0, 1).index_copy(0, rows, features.to(x.dtype))
            x = flat.view_as(x)
        *layers, last = self.language_model.layers
        for layer in layers:
            x = layer(x)
            if inner is not None:
                inner.append(x)
        x = last(x, at)
        return self.language_model.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.language_model.embed_tokens.weight)


def sincos(side: int, dim: int) -> Tensor:
    """A smooth two-dimensional table to start the position embedding from."""
    freq = torch.exp(torch.arange(dim // 4) * (-math.log(60.0) / (dim // 4)))
    wave = torch.arange(side)[:, None] * freq
    line = torch.cat([wave.sin(), wave.cos()], -1)
    rows, cols = line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)
    return torch.cat([rows, cols], -1).reshape(side * side, dim)


@torch.no_grad()
def initialise(model: Nano, seed: int = 0) -> Nano:
    """Small random weights everywhere (the class defaults of the mergers are far too large to train from)."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.8 * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, DeltaNet):
            nn.init.uniform_(module.conv1d.weight, -0.1, 0.1)
            module.conv1d.weight[:, 0, 3] += 0.8
            module.A_log.copy_(torch.linspace(0.5, 8, module.heads).log())
            dt = torch.logspace(-3, -1, module.heads)
            module.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))
    for branch in ("out_proj", "o_proj", "down_proj", "fc2", "linear_2"):
        for name, parameter in model.named_parameters():
            if name.endswith(f"{branch}.weight") and "merger.mlp" not in name:
                parameter.mul_(0.4)
    conv = model.vision_tower.embeddings.patch_embedding
    nn.init.normal_(conv.weight, std=588**-0.5)
    nn.init.zeros_(conv.bias)
    table = model.vision_tower.embeddings.position_embedding.weight
    table.copy_(0.3 * sincos(model.vision_tower.side, table.shape[1]) + 0.01 * torch.randn(table.shape))
    nn.init.normal_(model.language_model.embed_tokens.weight, std=0.05)
    return model

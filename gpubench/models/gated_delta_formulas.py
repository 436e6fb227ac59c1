"""The gated delta rule in torch, as its papers and models write it: one token, token by token, and in chunks.

    S ← e^g S;   u = β (v − Sᵀk);   S ← S + k uᵀ;   o = Sᵀq / √K

All compute in the dtype of the state they are given, and change none of their arguments. Shapes as in
gpubench.kernels.gated_delta_decode and gated_delta_prefill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from gpubench.kernels.gated_delta_arguments import CHUNK, GATE_FLOOR

__all__ = ["advance", "chunked", "pack", "prepare", "prepare_chunk", "ring_slots", "scan", "unpack"]

_NORM_EPS = 1e-6


def advance(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token of every sequence, computed in the dtype of `state`: the output and the next state."""
    dtype = state.dtype
    share = v.shape[1] // q.shape[1]
    q, k = (heads.to(dtype).repeat_interleave(share, dim=1)[..., None] for heads in (q, k))
    state = state * g.to(dtype).exp()[..., None, None]
    fresh = beta.to(dtype)[..., None] * (v.to(dtype) - (state * k).sum(dim=2))
    state = state + k * fresh[:, :, None]
    return (state * q).sum(dim=2) * q.shape[2] ** -0.5, state


def prepare(token: Mapping[str, Tensor], conv_state: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    """What a layer does before the recurrence of one token: q, k, v, g, beta, and what conv_state then holds.

    `token` has mixed, conv_weight, positions, a, b, a_log and dt_bias, as in gpubench.kernels.gated_delta_step.
    """
    mixed = token["mixed"]
    batch, taps = conv_state.shape[:2]
    rows = torch.arange(batch, device=mixed.device)[:, None]
    slots = (token["positions"][:, None] + 1 + torch.arange(taps, device=mixed.device)) % taps  # oldest to newest
    conv_state = conv_state.index_put((rows[:, 0], slots[:, -1]), mixed)
    convolved = F.silu((conv_state[rows, slots] * token["conv_weight"].T).sum(dim=1))
    return *_split(convolved, state), *_rates(token), conv_state


def prepare_chunk(
    tokens: Mapping[str, Tensor], conv_state: Tensor, first: int, state: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same for consecutive tokens of one sequence, the first of them at position `first`: q, k, v, g and beta.

    `tokens` has all but the positions; conv_state [taps, channels] is the sequence's ring, which is left as it is, and
    state [1, heads, K, V] only tells sizes.
    """
    mixed, weights = tokens["mixed"], tokens["conv_weight"].T
    inputs = torch.cat((conv_state[ring_slots(first, conv_state)[1:]], mixed))
    convolved = inputs[: len(mixed)] * weights[0]
    for tap in range(1, len(weights)):
        convolved.addcmul_(inputs[tap : tap + len(mixed)], weights[tap])
    q, k, v = _split(F.silu(convolved), state)
    return q, k, v, *_rates(tokens)


def ring_slots(position: int, conv_state: Tensor) -> Tensor:
    """Where a ring [taps, channels] has the inputs of the positions before this one, oldest to newest."""
    taps = conv_state.shape[0]
    return (torch.arange(taps, device=conv_state.device) + position) % taps


def _split(convolved: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q and k, normalised, and v of convolved tokens [rows, channels], by the sizes of a state [_, heads, K, V]."""
    rows, (heads, dim_k, dim_v) = len(convolved), state.shape[1:]
    keys, values = torch.split(convolved, [convolved.shape[1] - heads * dim_v, heads * dim_v], dim=1)
    keys = keys.view(rows, 2, -1, dim_k)
    q, k = (keys * (keys.square().sum(dim=-1, keepdim=True) + _NORM_EPS).rsqrt()).unbind(dim=1)
    return q, k, values.view(rows, heads, dim_v)


def _rates(token: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """g and beta, [rows, heads] each."""
    kind = torch.promote_types(token["mixed"].dtype, torch.float32)
    g = -token["a_log"].to(kind).exp() * F.softplus(token["a"].to(kind) + token["dt_bias"])
    return g, token["b"].to(kind).sigmoid()


def unpack(rows: Tensor, lengths: Sequence[int], multiple: int = 1) -> Tensor:
    """[tokens, …] → [sequences, longest, …], the longest rounded up to a `multiple`; zeros behind a shorter one.

    A token of zeros (k, g and beta) leaves the state as it is.
    """
    padded = pad_sequence(list(torch.split(rows, list(lengths))), batch_first=True)
    return F.pad(padded, (0, 0) * (rows.dim() - 1) + (0, -padded.shape[1] % multiple))


def pack(padded: Tensor, lengths: Sequence[int]) -> Tensor:
    """[sequences, longest, …] → [tokens, …]."""
    return torch.cat([sequence[:length] for sequence, length in zip(padded, lengths, strict=True)])


def scan(tokens: Sequence[Tensor], state: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Token by token: `tokens` are q, k, v, g and beta of all sequences, packed; the outputs and the last states."""
    padded = [unpack(rows, lengths) for rows in tokens]
    outputs = []
    for token in range(max(lengths)):
        q, k, v, g, beta = (rows[:, token] for rows in padded)
        out, state = advance(q, k, v, g, beta, state)
        outputs.append(out)
    return pack(torch.stack(outputs, dim=1), lengths), state


def chunked(tokens: Sequence[Tensor], state: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The same as `scan`, a chunk of tokens at a time, by the formulas of gpubench.kernels.gated_delta_prefill."""
    dtype, share = state.dtype, tokens[2].shape[1] // tokens[0].shape[1]
    q, k, v, g, beta = (_cut(rows, lengths).to(dtype) for rows in tokens)
    q, k = (rows.repeat_interleave(share, dim=1) for rows in (q, k))
    gate = g.clamp(min=GATE_FLOOR).cumsum(dim=-1)  # [sequences, heads, chunks, CHUNK]
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    decay = (gate[..., :, None] - gate[..., None, :]).where(lower, -torch.inf).exp()
    products = (k @ k.mT * decay * beta[..., None]).tril(-1)
    identity = torch.eye(CHUNK, dtype=dtype, device=q.device)
    solved = torch.linalg.solve_triangular(identity + products, identity, upper=False, unitriangular=True)
    w = solved @ (k * (beta * gate.exp())[..., None])
    u = solved @ (v * beta[..., None])
    attention = q @ k.mT * decay
    outputs = []
    for chunk in range(q.shape[2]):
        last = gate[:, :, chunk, -1:, None]
        fresh = u[:, :, chunk] - w[:, :, chunk] @ state
        seen = q[:, :, chunk] * gate[:, :, chunk, :, None].exp()
        outputs.append(seen @ state + attention[:, :, chunk] @ fresh)
        fading = k[:, :, chunk] * (last - gate[:, :, chunk, :, None]).exp()
        state = last.exp() * state + fading.mT @ fresh
    out = torch.stack(outputs, dim=2).flatten(2, 3).transpose(1, 2) * q.shape[-1] ** -0.5
    return pack(out, lengths), state


def _cut(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """[tokens, heads, …] → [sequences, heads, chunks, CHUNK, …]."""
    padded = unpack(rows, lengths, CHUNK).transpose(1, 2)
    return padded.reshape(*padded.shape[:2], -1, CHUNK, *padded.shape[3:])

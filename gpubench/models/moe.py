"""A mixture of experts: every token goes through the few that its router chooses, and through one that all share.

For hidden states x [batch, hidden], E experts of which k are chosen:

    p = softmax(x · W_routerᵀ);  chosen = the k largest of p, the lower index first where two tie;  share = p / Σ p
    y = Σ share_e · expert_e(x) + σ(x · w_shared) · expert_shared(x)
    expert(x) = (silu(gate) ⊙ up) · W_downᵀ,  gate, up = split(x · W_gate_upᵀ)

Any routing is right, all tokens to one expert included, and shapes depend on the batch alone, so that nothing
synchronises. A device has one way to run the chosen experts:

- bfloat16 on compute capability 9 or 10: tokens sorted by expert, then torch's grouped GEMM, which reads each expert
  that is chosen once;
- elsewhere: each token's experts gathered, then a batched product. The grouped GEMM has no kernel there, and what torch
  does instead copies the groups' sizes to the host. It reads an expert once per token and holds k · hidden · 2 ·
  intermediate weights per token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.models.layers import random_weight

__all__ = ["MixtureOfExperts", "MoeShape", "route"]

_GROUPED_GEMM = (9, 10)
"""Major compute capabilities that torch's grouped GEMM has kernels for."""


@dataclass(frozen=True)
class MoeShape:
    """The experts of a layer."""

    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int

    def parameters(self, hidden: int) -> int:
        """Router, experts, the shared expert and its gate."""
        shared = 3 * self.shared_intermediate * hidden + hidden
        return self.experts * (hidden + self.expert_parameters(hidden)) + shared

    def expert_parameters(self, hidden: int) -> int:
        """One expert that is chosen or not."""
        return 3 * self.intermediate * hidden

    def products(self, hidden: int) -> int:
        """Weights that one token is multiplied with: each costs two FLOP."""
        not_chosen = self.experts - self.top_k
        return self.parameters(hidden) - not_chosen * self.expert_parameters(hidden)

    def touched(self, batch: int) -> float:
        """How many experts `batch` tokens choose between them, on average over even and independent routing.

        A token leaves an expert out with probability 1 − k / E, hence E · (1 − (1 − k / E)^batch): k for one token, and
        below min(E, batch · k) for more.
        """
        return self.experts * (1 - (1 - self.top_k / self.experts) ** batch)

    def activation_numbers(self, hidden: int) -> int:
        """The most that one token holds at once: the weights it gathers, where they are gathered, and their in- and
        outputs."""
        chosen = self.top_k * (2 * self.intermediate * hidden + 2 * hidden + 3 * self.intermediate)
        return chosen + 3 * self.shared_intermediate


def route(logits: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The experts chosen by `logits` [batch, experts], and their shares, which add up to 1: both [batch, top_k].

    A stable sort, because topk leaves open which of two equal ones it takes.
    """
    probabilities, experts = logits.float().softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
    shares = probabilities[:, :top_k]
    return experts[:, :top_k], (shares / shares.sum(dim=-1, keepdim=True)).to(logits.dtype)


class MixtureOfExperts(nn.Module):
    """The experts of a layer with their router."""

    def __init__(self, shape: MoeShape, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.shape = shape
        self.router = random_weight(shape.experts, hidden, dtype=dtype)
        self.gate_up = random_weight(shape.experts, 2 * shape.intermediate, hidden, dtype=dtype)
        self.down = random_weight(shape.experts, hidden, shape.intermediate, dtype=dtype)
        self.shared_gate_up = random_weight(2 * shape.shared_intermediate, hidden, dtype=dtype)
        self.shared_down = random_weight(hidden, shape.shared_intermediate, dtype=dtype)
        self.shared_gate = random_weight(1, hidden, dtype=dtype)
        self.run_chosen = self.run_grouped if _has_grouped_gemm(self.router) else self.run_gathered

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, hidden] → the same."""
        chosen, shares = route(F.linear(x, self.router), self.shape.top_k)
        outputs = self.run_chosen(x, chosen).view(*chosen.shape, -1)
        routed = (outputs * shares[..., None]).sum(dim=1)
        shared = F.linear(_swiglu(F.linear(x, self.shared_gate_up)), self.shared_down)
        return routed + F.linear(x, self.shared_gate).sigmoid() * shared

    def run_grouped(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Each token through the experts chosen for it: [batch · top_k, hidden], token by token. bfloat16."""
        experts, order = chosen.flatten().sort(stable=True)
        every = torch.arange(self.shape.experts, device=x.device)
        ends = torch.searchsorted(experts, every, right=True, out_int32=True)  # of each expert's rows
        inner = _swiglu(F.grouped_mm(x[order // self.shape.top_k], self.gate_up.mT, offs=ends))
        outputs = F.grouped_mm(inner, self.down.mT, offs=ends)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        return outputs[places]

    def run_gathered(self, x: Tensor, chosen: Tensor) -> Tensor:
        """The same in any dtype on any device."""
        experts = chosen.flatten()
        rows = x.repeat_interleave(self.shape.top_k, dim=0)[..., None]
        inner = _swiglu((self.gate_up[experts] @ rows).squeeze(-1))
        return (self.down[experts] @ inner[..., None]).squeeze(-1)


def _swiglu(gate_up: Tensor) -> Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def _has_grouped_gemm(like: Tensor) -> bool:
    if not like.is_cuda or like.dtype != torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(like.device)[0] in _GROUPED_GEMM

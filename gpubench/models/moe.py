"""A mixture of experts: every token goes through the few that its router chooses, and through one that all share.

For hidden states x [rows, hidden], E experts in groups, of which k are chosen:

    s = softmax(z), or σ(z) where `scoring` is sigmoid;  z = x · W_routerᵀ
    eligible = the experts of the `top_groups` groups with the largest sums of their two best s + bias
    chosen = the k eligible with the largest s + bias, the lower index first where two tie
    share_e = scale · s_e / Σ s over the chosen
    y = Σ share_e · expert_e(x) + σ(x · w_shared) · expert_shared(x)
    expert(x) = (silu(gate) ⊙ up) · W_downᵀ,  gate, up = split(x · W_gate_upᵀ)       or another activation of layers

The bias [E], float32, belongs to sigmoid scoring: it steers the choice and has no part in the shares. It and the groups
are after "DeepSeek-V3 Technical Report", 2024. A shape without a gate adds the shared expert as it is; one whose shared
intermediate is 0 has no shared expert.

A rank of several holds the first `held` experts alone, and the others that its tokens choose add nothing: the sum over
the ranks is the whole. Rows of other ranks may come beside its own (gpubench.models.ranks): they are routed and go
through the experts that are here, but not through the shared one, which their own ranks have.

Any routing is right, all tokens to one expert included, and shapes depend on the number of rows alone, so that nothing
synchronises. Torch's operators have one way on a device to run the chosen experts:

- bfloat16 on compute capability 9 or 10: tokens sorted by expert, then torch's grouped GEMM, which reads each expert
  that is chosen once;
- elsewhere: each token's experts gathered, then a batched product. The grouped GEMM has no kernel there, and what torch
  does instead copies the groups' sizes to the host. It reads an expert once per token and holds k · hidden · 2 ·
  intermediate weights per token.

Our kernels have two, by the number of rows and the experts' size: gpubench.kernels.moe_few for the fewest,
gpubench.kernels.moe_grouped for more; for so many that an expert has more than a tile of them on average, torch's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubench.errors import ArgumentError
from gpubench.models.base import Attention, Parallel
from gpubench.models.layers import Activation, activate, random_weight, random_weights, weight
from gpubench.models.projections import Operand, prepare, project
from gpubench.models.ranks import divide

__all__ = ["MixtureOfExperts", "MoeShape", "route"]

FEW_ROWS = 8
FEW_WEIGHTS = 1 << 27
"""Up to so many tokens, and so many weights of all experts that they choose, each token may read its own. A token more
reads less for itself than it shares with others, and a rank of several has little of it here. One token shares nothing
and takes its own as long as all are here.

A layer in µs, each token's own / an expert's once (NVIDIA H200, 2026-11-21): of 256 experts of 2048 × 512, top 8,
38 / 50 for 2 tokens, 69 / 72 for 4, 122 / 107 for 8; of 7168 × 2048, 217 / 234 for 1, 427 / 347 for 2, and on one rank
of 16 82 / 41 for 1, 307 / 88 for 4.
"""

TOKENS = 16
"""Of an expert, that gpubench.kernels.moe_grouped takes at a time."""

_GROUPED_GEMM = (9, 10)
"""Major compute capabilities that torch's grouped GEMM has kernels for."""


@dataclass(frozen=True)
class MoeShape:
    """The experts of a layer."""

    experts: int
    top_k: int
    intermediate: int
    shared_intermediate: int
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    groups: int = 1
    top_groups: int = 1
    """Of the groups, how many a token may choose from."""
    scale: float = 1.0
    has_shared_gate: bool = True
    activation: Activation = "swiglu"
    held: int | None = None
    """How many experts this rank has, the first ones; None: all."""

    def __post_init__(self) -> None:
        if self.experts % self.groups or not 1 <= self.top_groups <= self.groups:
            raise ArgumentError(
                f"groups: {self.experts} experts can't be dealt to {self.groups} groups, {self.top_groups} of them open"
            )
        if not 1 <= self.top_k <= self.experts // self.groups * self.top_groups:
            raise ArgumentError(
                f"top_k: {self.top_k} experts can't be chosen from {self.top_groups} groups of "
                f"{self.experts // self.groups}"
            )
        if not 1 <= self.held_experts <= self.experts:
            raise ArgumentError(f"held: a rank has 1 to {self.experts} of {self.experts} experts; got {self.held}")

    def rank_share(self, parallel: Parallel, ranks: int) -> MoeShape:
        """As `ModelConfig.rank_share`; TEP divides the shared expert's intermediate dimensions, too."""
        share = replace(self, held=divide(self.experts, ranks, "experts"))
        if parallel == "DEP":
            return share
        shared = divide(self.shared_intermediate, ranks, "intermediate dimensions of the shared expert")
        return replace(share, shared_intermediate=shared)

    @property
    def held_experts(self) -> int:
        """How many experts have weights here."""
        return self.experts if self.held is None else self.held

    @property
    def chosen_here(self) -> float:
        """How many of a token's experts this rank has, on average over even routing."""
        return self.top_k * self.held_experts / self.experts

    @property
    def has_bias(self) -> bool:
        return self.scoring == "sigmoid"

    def parameters(self, hidden: int) -> int:
        """Router with its bias, the experts that are here, the shared expert and its gate."""
        router = self.experts * (hidden + self.has_bias)
        shared = 3 * self.shared_intermediate * hidden + self.has_gate * hidden
        return router + self.held_experts * self.expert_parameters(hidden) + shared

    @property
    def float32_parameters(self) -> int:
        """Of the parameters, those that are float32 whatever the others are."""
        return self.experts * self.has_bias

    def expert_parameters(self, hidden: int) -> int:
        """One expert that is chosen or not."""
        return 3 * self.intermediate * hidden

    def products(self, hidden: int) -> int:
        """Weights that one token is multiplied with, on average: each costs two FLOP."""
        not_chosen = self.held_experts - self.chosen_here
        products = self.parameters(hidden) - self.float32_parameters
        return round(products - not_chosen * self.expert_parameters(hidden))

    def routed_products(self, hidden: int) -> int:
        """The same for a token of another rank: router and routed experts."""
        return round(self.experts * hidden + self.chosen_here * self.expert_parameters(hidden))

    def touched(self, rows: int) -> float:
        """How many experts of this rank `rows` tokens choose between them, on average over even independent routing.

        A token leaves an expert out with probability 1 − k / E, hence held · (1 − (1 − k / E)^rows).
        """
        return self.held_experts * (1 - (1 - self.top_k / self.experts) ** rows)

    def activation_numbers(self, hidden: int, itemsize: int) -> int:
        """The most that one token holds at once: its in- and outputs, and the weights it gathers, if 4 bytes wide.

        Two bytes wide, they are taken to be bfloat16 on a GPU that has a grouped GEMM for it.
        """
        chosen = self.top_k * (4 * hidden + 3 * self.intermediate)
        gathered = self.top_k * 2 * self.intermediate * hidden if itemsize > 2 else 0
        return chosen + gathered + 3 * self.shared_intermediate

    @property
    def has_gate(self) -> bool:
        """Whether there is a shared expert, and a gate of its own."""
        return self.has_shared_gate and self.shared_intermediate > 0


def route(logits: Tensor, shape: MoeShape, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The experts chosen by `logits` [rows, experts], and their shares: both [rows, top_k].

    `bias` [experts], float32, steers the choice alone. A stable sort, because topk leaves open which of two equal ones
    it takes.
    """
    scores = logits.float().softmax(dim=-1) if shape.scoring == "softmax" else logits.float().sigmoid()
    wanted = scores if bias is None else scores + bias
    if shape.top_groups < shape.groups:
        wanted = _close_groups(wanted, shape)
    experts = wanted.sort(dim=-1, descending=True, stable=True).indices[:, : shape.top_k]
    shares = scores.gather(1, experts)
    shares = shape.scale * shares / (shares.sum(dim=-1, keepdim=True) + 1e-20)
    return experts, shares.to(logits.dtype)


def _close_groups(wanted: Tensor, shape: MoeShape) -> Tensor:
    """`wanted` [rows, experts] with −∞ for the experts of all but the best groups."""
    grouped = wanted.view(-1, shape.groups, shape.experts // shape.groups)
    best = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(dim=-1)
    order = best.sort(dim=-1, descending=True, stable=True).indices
    closed = torch.ones_like(best, dtype=torch.bool).scatter_(1, order[:, : shape.top_groups], False)
    return grouped.masked_fill(closed[..., None], -torch.inf).view_as(wanted)


class MixtureOfExperts(nn.Module):
    """The experts of a layer with their router."""

    def __init__(self, shape: MoeShape, hidden: int, dtype: torch.dtype, implementation: Attention = "torch") -> None:
        super().__init__()
        self.shape = shape
        held, shared = shape.held_experts, shape.shared_intermediate
        of_shared = [(2 * shared, hidden)] if shared else []
        gates = [(1, hidden)] if shape.has_gate else []
        self.into, (self.router, *others) = random_weights((shape.experts, hidden), *of_shared, *gates, dtype=dtype)
        self.bias = weight(torch.empty(shape.experts).normal_(0.0, 0.1)) if shape.has_bias else None
        self.gate_up = random_weight(held, 2 * shape.intermediate, hidden, dtype=dtype)
        self.down = random_weight(held, hidden, shape.intermediate, dtype=dtype)
        if shared:
            self.shared_gate_up = others[0]
            self.shared_down = random_weight(hidden, shared, dtype=dtype)
            self.shared_gate = others[1] if gates else None
        self.run_chosen = self.run_grouped if _has_grouped_gemm(self.router) else self.run_gathered
        few = min(FEW_ROWS, FEW_WEIGHTS // (shape.top_k * shape.expert_parameters(hidden)))
        self.few_rows = max(few, int(held == shape.experts))
        self.has_kernels = implementation != "torch"
        if self.has_kernels:
            import gpubench.kernels.linear_few
            import gpubench.kernels.moe_few
            import gpubench.kernels.moe_grouped
            import gpubench.kernels.moe_route  # noqa: F401 - all register their operators

    def forward(self, x: Tensor, others: Tensor | None = None) -> Tensor:
        """x [rows, hidden] → the same; `others` [rows of other ranks, hidden] are routed, too, and not returned."""
        return self._add(None, Operand(x), others)

    def add(self, x: Tensor, scale: Tensor, eps: float, others: Tensor | None = None) -> Tensor:
        """x + forward(RMSNorm(x) ⊙ scale, others), x [rows, hidden]: a layer's whole second half."""
        return self._add(x, Operand(x, "norm", scale, eps=eps), others)

    def _add(self, residual: Tensor | None, operand: Operand, others: Tensor | None) -> Tensor:
        if self.has_kernels and others is None and len(operand.x) <= self.few_rows:
            return self._add_few(residual, operand)
        x = prepare(operand, has_kernel=self.has_kernels)
        rows = x if others is None else torch.cat((x, others))
        if self.has_kernels and len(rows) * self.shape.top_k <= TOKENS * self.shape.experts:
            return self._add_grouped(residual, x, rows)
        if self.shape.shared_intermediate:
            shared = self._run_shared(x)
            residual = shared if residual is None else residual + shared
        chosen, shares = route(F.linear(rows, self.router), self.shape, self.bias)
        outputs = self.run_chosen(rows, chosen).view(*chosen.shape, -1)
        routed = (outputs * shares[..., None]).sum(dim=1)[: len(x)]
        return routed if residual is None else residual + routed

    def _add_few(self, residual: Tensor | None, operand: Operand) -> Tensor:
        shape, x, is_oai = self.shape, operand.x, self.shape.activation == "swiglu_oai"
        logits, shared, gate = self._split(project(operand, self.into, has_kernel=True))
        experts, shares = self._route(logits)
        inner = x.new_empty(len(x), shape.top_k, shape.intermediate)
        torch.ops.gpubench.moe_few_up(x, operand.scale, experts, self.gate_up, inner, is_oai=is_oai, eps=operand.eps)
        out = torch.empty_like(x)
        torch.ops.gpubench.moe_few_down(
            inner,
            experts,
            shares,
            self.down,
            shared,
            gate,
            None if shared is None else self.shared_down,
            residual,
            out,
            is_oai=is_oai,
        )
        return out

    def _add_grouped(self, residual: Tensor | None, x: Tensor, rows: Tensor) -> Tensor:
        """`rows` are x and, behind it, those of other ranks."""
        shape, pairs = self.shape, len(rows) * self.shape.top_k
        logits, shared, gate = self._split(F.linear(x, self.into))
        if shared is not None:
            shared = self._run_shared_down(shared)
        experts, shares = self._route(logits if rows is x else F.linear(rows, self.router))
        counts = experts.new_empty(shape.held_experts)
        lists = experts.new_empty(shape.held_experts, pairs)
        torch.ops.gpubench.moe_group(experts, counts, lists)
        inner, outputs = x.new_empty(pairs, shape.intermediate), x.new_empty(pairs, x.shape[1])
        is_oai = shape.activation == "swiglu_oai"
        torch.ops.gpubench.moe_grouped_up(rows, counts, lists, self.gate_up, inner, is_oai=is_oai)
        torch.ops.gpubench.moe_grouped_down(inner, counts, lists, self.down, outputs)
        out = torch.empty_like(x)
        own = (outputs[: len(x) * shape.top_k], experts[: len(x)], shares[: len(x)])
        torch.ops.gpubench.moe_grouped_add(*own, residual, shared, gate, out, held=shape.held_experts)
        return out

    def _split(self, first: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Of the product with `into`: logits, the shared expert's gate and up, its gate's logit."""
        shape = self.shape
        if not shape.shared_intermediate:
            return first[:, : shape.experts], None, None
        end = shape.experts + 2 * shape.shared_intermediate
        gate = first[:, end : end + 1] if shape.has_gate else None
        return first[:, : shape.experts], first[:, shape.experts : end], gate

    def _run_shared_down(self, gate_up: Tensor) -> Tensor:
        """The shared expert's second half in our kernels, for any number of rows; its gate is left to others."""
        gate, up = gate_up.chunk(2, dim=-1)
        is_swiglu = self.shape.activation == "swiglu"
        inner = Operand(up, "silu_gate", gate=gate) if is_swiglu else Operand(activate(gate_up, self.shape.activation))
        return project(inner, self.shared_down, has_kernel=True)

    def _route(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """`route` in our kernel."""
        shape, size = self.shape, (len(logits), self.shape.top_k)
        experts = logits.new_empty(size, dtype=torch.int32)
        shares = logits.new_empty(size, dtype=torch.float32)
        torch.ops.gpubench.moe_route(
            logits,
            self.bias,
            experts,
            shares,
            is_sigmoid=shape.scoring == "sigmoid",
            groups=shape.groups,
            top_groups=shape.top_groups,
            scale=shape.scale,
        )
        return experts, shares

    def _run_shared(self, x: Tensor) -> Tensor:
        shared = F.linear(activate(F.linear(x, self.shared_gate_up), self.shape.activation), self.shared_down)
        return shared if self.shared_gate is None else F.linear(x, self.shared_gate).sigmoid() * shared

    def run_grouped(self, x: Tensor, chosen: Tensor) -> Tensor:
        """Each token through the experts chosen for it: [rows · top_k, hidden], token by token. bfloat16."""
        experts, order = chosen.flatten().sort(stable=True)
        every = torch.arange(self.shape.held_experts, device=x.device)
        ends = torch.searchsorted(experts, every, right=True, out_int32=True)  # of each expert's rows
        gate_up = F.grouped_mm(x[order // self.shape.top_k], self.gate_up.mT, offs=ends)
        inner = activate(gate_up, self.shape.activation)
        outputs = F.grouped_mm(inner, self.down.mT, offs=ends)
        if self.shape.held is not None:  # behind the last expert's rows nothing was written
            outputs = outputs.masked_fill(experts[:, None] >= self.shape.held, 0.0)
        places = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=x.device))
        return outputs[places]

    def run_gathered(self, x: Tensor, chosen: Tensor) -> Tensor:
        """The same in any dtype on any device."""
        experts = chosen.flatten()
        here = experts.clamp(max=self.shape.held_experts - 1)
        rows = x.repeat_interleave(self.shape.top_k, dim=0)[..., None]
        inner = activate((self.gate_up[here] @ rows).squeeze(-1), self.shape.activation)
        outputs = (self.down[here] @ inner[..., None]).squeeze(-1)
        return outputs if self.shape.held is None else outputs.masked_fill((experts != here)[:, None], 0.0)


def _has_grouped_gemm(like: Tensor) -> bool:
    if not like.is_cuda or like.dtype != torch.bfloat16:
        return False
    return torch.cuda.get_device_capability(like.device)[0] in _GROUPED_GEMM

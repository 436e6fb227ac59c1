"""What runs in the interpreter's process: a prefill in either form, and how far its rows are from fp64's."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch

NAN = float("nan")


@dataclass(frozen=True)
class Case:
    """One prefill. Beyond what the sequences own, queries, cache and scratch hold NaN, and so does the output."""

    new: tuple[int, ...]
    """New tokens of each sequence."""
    prefixes: tuple[int, ...]
    heads: int
    dims: tuple[int, int, int, int] = (32, 16, 48, 32)
    """R, P, N and V."""
    padding: int = 0
    splits: int = 0
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def tokens(self):
        return sum(self.new) + self.padding

    def offsets(self):
        keys = [new + prefix for new, prefix in zip(self.new, self.prefixes, strict=True)]
        ends = ([0, *itertools.accumulate(counts)] for counts in (self.new, keys))
        return tuple(torch.tensor(end, dtype=torch.int32, device=self.device) for end in ends)

    def inputs(self):
        torch.manual_seed(sum(self.new) + self.heads)
        latent, rope, nope, v = self.dims
        cu_q, cu_k = self.offsets()
        make = {"dtype": torch.float32, "device": self.device}
        q = torch.randn(self.tokens, self.heads, nope + rope, **make).to(self.dtype)
        cache = torch.randn(int(cu_k[-1]) + 3, latent + rope, **make).to(self.dtype)
        q[cu_q[-1] :], cache[cu_k[-1] :] = NAN, NAN
        w_kv = (torch.randn(self.heads * (nope + v), latent, **make) * latent**-0.5).to(self.dtype)
        return q, cache, w_kv, cu_q, cu_k

    def empty(self, *shape, dtype=None):
        return torch.full(shape, NAN, dtype=dtype or self.dtype, device=self.device)

    def scratch(self, width):
        scores = self.empty(self.splits, self.tokens, self.heads, dtype=torch.float32)
        return self.empty(*scores.shape, width, dtype=torch.float32), scores


def prepared(case, form):
    """The arguments of a launch, and the launcher."""
    from gpubench.kernels.mla_prefill_forms import mla_prefill_absorbed, mla_prefill_expanded

    latent, _, nope, v = case.dims
    inputs = case.inputs()
    out = case.empty(case.tokens, case.heads, v)
    if form == "expanded":
        kv = case.empty(len(inputs[1]), case.heads, nope + v)
        return mla_prefill_expanded, (*inputs, kv, out, *case.scratch(v)), out
    latents = (case.empty(case.tokens, case.heads, latent) for _ in range(2))
    return mla_prefill_absorbed, (*inputs, *latents, out, *case.scratch(latent)), out


def prefill(case, form):
    launch, arguments, out = prepared(case, form)
    assert launch(*arguments) is None
    return out


def reference(case):
    """fp64, head by head."""
    latent, rope, nope, v = case.dims
    q, cache, w_kv, cu_q, cu_k = (t.double() if t.is_floating_point() else t.tolist() for t in case.inputs())
    out = torch.zeros(case.tokens, case.heads, v, dtype=torch.float64, device=case.device)
    w = w_kv.view(case.heads, nope + v, latent)
    for (q0, q1), (k0, k1) in zip(itertools.pairwise(cu_q), itertools.pairwise(cu_k), strict=True):
        c, k_pe = cache[k0:k1].split([latent, rope], dim=1)
        seen = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool, device=case.device).tril(k1 - k0 - q1 + q0)
        for head in range(case.heads):
            k, value = (c @ w[head].T).split([nope, v], dim=1)
            scores = q[q0:q1, head] @ torch.cat([k, k_pe], dim=1).T * (nope + rope) ** -0.5
            out[q0:q1, head] = scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value
    return out


def error(case, form):
    """Relative to the reference's norm. Padded rows are asserted to be zero."""
    out, expected = prefill(case, form).double(), reference(case)
    assert not out[case.tokens - case.padding :].any(), "padded rows are zero"
    return ((out - expected).norm() / expected.norm()).item()


def worst_neighbour(case, form, spoilt):
    """The largest difference that NaN in one sequence's cache and queries makes to the others' rows."""
    launch, arguments, out = prepared(case, form)
    launch(*arguments)
    clean = out.clone()
    q, cache, _, cu_q, cu_k = arguments[:5]
    q[cu_q[spoilt] : cu_q[spoilt + 1]] = NAN
    cache[cu_k[spoilt] : cu_k[spoilt + 1]] = NAN
    launch(*arguments)
    others = torch.ones(case.tokens, dtype=torch.bool)
    others[cu_q[spoilt] : cu_q[spoilt + 1]] = False
    return (out[others] - clean[others]).abs().max().item()


def opcheck(case, form):
    launch, arguments, _ = prepared(case, form)
    operator = getattr(torch.ops.gpubench, launch.__name__).default
    return torch.library.opcheck(operator, tuple(torch.nan_to_num(argument) for argument in arguments))


def opcheck_of_attention(case, form):
    """The attention's own operator, on the scratch that its form left behind."""
    launch, arguments, out = prepared(case, form)
    launch(*arguments)
    q, cache, _, cu_q, cu_k, *rest = (torch.nan_to_num(argument) for argument in arguments)
    latent = case.dims[0]
    if form == "expanded":
        kv, _, *scratch = rest
        operator = torch.ops.gpubench.mla_prefill_attention.default
        return torch.library.opcheck(operator, (q, kv, cache[:, latent:].contiguous(), cu_q, cu_k, out, *scratch))
    q_latent, out_latent, _, *scratch = rest
    operator = torch.ops.gpubench.mla_prefill_latent_attention.default
    return torch.library.opcheck(operator, (q_latent, q, cache, cu_q, cu_k, out_latent, *scratch))


def compiled_agrees(case, form):
    """Whether compiled code that calls the operator reads what it wrote."""
    launch, arguments, out = prepared(case, form)
    operator = getattr(torch.ops.gpubench, launch.__name__)

    def step(*given):
        before = given[-3].nan_to_num(1.0).sum()
        operator(*given)
        return before, given[-3].sum()

    before, after = torch.compile(step, fullgraph=True, backend="aot_eager")(*arguments)
    return before.item() == out.numel() and torch.equal(after, out.sum())


def call(form, changes):
    """A launch of a small case with some of its arguments replaced."""
    case = Case(new=(4, 3), prefixes=(2, 0), heads=2, splits=2, padding=1)
    launch, arguments, _ = prepared(case, form)
    names = list(launch.__annotations__)
    launch(*(changes.get(name, value) for name, value in zip(names, arguments, strict=False)))


def error_in_groups_of(heads, case):
    """The error when only so many heads' keys are taken to fit the L2."""
    import gpubench.kernels.mla_prefill as kernels
    import gpubench.kernels.mla_prefill_forms as forms
    from gpubench.kernels.launching import Planned

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "head_group", lambda _sizes: heads)
        patch.setattr(forms, "_EXPANDED", Planned(forms._prepare_expanded))
        return error(case, "expanded")

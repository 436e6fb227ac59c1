"""What runs in the interpreter's process: one launch of multi-head latent attention, and how far it is from fp64."""

from __future__ import annotations

from dataclasses import dataclass

import torch

PAGE = 64
SENTINEL = 7.0


@dataclass(frozen=True)
class Case:
    """A step: what is not said is random, from the seed."""

    lengths: tuple[int, ...]
    heads: int
    kv_lora: int = 32
    rope: int = 16
    dtype: torch.dtype = torch.float32
    splits: int | None = None
    seed: int = 0


def make(case, device="cpu"):
    """The arguments of a launch, less out and scratch; what no token has written in the cache is NaN."""
    generator = torch.Generator().manual_seed(case.seed)
    batch, dim = len(case.lengths), case.kv_lora + case.rope
    max_pages = max(1, -(-max(case.lengths) // PAGE))
    order = torch.randperm(batch * max_pages + 1, generator=generator)  # a page more than is used
    table = order[: batch * max_pages].view(batch, max_pages)
    cache = torch.full((batch * max_pages + 1, PAGE, dim), float("nan"))
    for b, length in enumerate(case.lengths):
        for i in range(-(-length // PAGE)):
            live = min(PAGE, length - i * PAGE)
            cache[table[b, i], :live] = torch.randn(live, dim, generator=generator)
    # Rows of a wider tensor: the strides are not those of a contiguous one.
    query = torch.randn(batch, case.heads, dim + 16, generator=generator).to(case.dtype).to(device)
    return (
        query[..., : case.kv_lora],
        query[..., case.kv_lora : dim],
        cache.to(case.dtype).to(device),
        table.to(torch.int32).to(device),
        torch.tensor(case.lengths, dtype=torch.int32, device=device),
    )


def launch(case, arguments):
    """`out` of a launch on these, where neither out nor scratch had anything of use in them before."""
    from gpubench.kernels.mla_decode import mla_decode, mla_decode_scratch

    q_latent, q_rope, cache, table, _ = arguments
    elements = mla_decode_scratch(q_latent, q_rope, table, splits=case.splits)
    scratch = torch.full((elements + 1,), float("nan"), device=cache.device)
    border = torch.full((len(case.lengths) + 1, case.heads, case.kv_lora), SENTINEL, dtype=case.dtype).to(cache.device)
    out = border[:-1]
    out.fill_(float("nan"))
    mla_decode(*arguments, out, scratch, softmax_scale=scale(case), splits=case.splits)
    assert (border[-1] == SENTINEL).all(), "nothing is written beyond the output"
    assert scratch[-1].isnan(), "nothing is written beyond the scratch"
    return out


def scale(case):
    return (case.kv_lora + case.rope) ** -0.5


def reference(case, arguments):
    """In fp64, sequence by sequence."""
    q_latent, q_rope, cache, table, _ = arguments
    rows = []
    for b, length in enumerate(case.lengths):
        entries = cache[table[b].long()].flatten(0, 1)[:length].double()
        scores = torch.cat([q_latent[b], q_rope[b]], dim=-1).double() @ entries.T * scale(case)
        rows.append(scores.softmax(dim=-1) @ entries[:, : case.kv_lora])
    return torch.stack(rows)


def difference(case, arguments, out):
    """‖out − reference‖ / ‖reference‖, which a NaN anywhere makes NaN."""
    wanted = reference(case, arguments)
    return ((out.double() - wanted).norm() / wanted.norm().clamp(min=1e-30)).item()


def attend(case):
    """The largest deviation, and `out` itself."""
    arguments = make(case)
    out = launch(case, arguments)
    return difference(case, arguments, out), out


def append(case):
    """A cache before and after the new tokens were written to it, and the rows that should have changed."""
    from gpubench.kernels.mla_cache import mla_cache_append

    _, _, cache, table, lengths = make(case)
    cache = torch.randn(cache.shape).to(case.dtype)
    wide = torch.randn(len(case.lengths), case.kv_lora + case.rope + 8).to(case.dtype)
    latent, rope = wide[:, : case.kv_lora], wide[:, case.kv_lora : case.kv_lora + case.rope]
    expected = cache.clone()
    for b, length in enumerate(case.lengths):
        if length:
            page, row = divmod(length - 1, PAGE)
            expected[table[b, page].long(), row] = torch.cat([latent[b], rope[b]])
    mla_cache_append(latent, rope, cache, table, lengths)
    return cache, expected


def call(name, arguments, options):
    """A launch by its operator's name with arguments made elsewhere."""
    from gpubench.kernels import mla_cache, mla_decode

    getattr(mla_decode if hasattr(mla_decode, name) else mla_cache, name)(*arguments, **options)


def check_operators():
    """opcheck on both operators, and a compiled step that must see the write before it reads."""
    import gpubench.kernels.mla_decode  # noqa: F401 (registers them)

    case = Case(lengths=(65, 3), heads=2, splits=2)
    arguments = make(case)
    out = torch.empty(2, 2, case.kv_lora)
    scratch = torch.empty(2 * 2 * 2 * (case.kv_lora + 1))
    options = {"softmax_scale": scale(case), "splits": 2}
    torch.library.opcheck(torch.ops.gpubench.mla_decode.default, (*arguments, out, scratch), options)
    entry = torch.randn(2, case.kv_lora), torch.randn(2, case.rope)
    torch.library.opcheck(torch.ops.gpubench.mla_cache_append.default, (*entry, *arguments[2:]))

    def step(query, rope, cache, table, lengths):
        before = cache.nansum()
        torch.ops.gpubench.mla_cache_append(*entry, cache, table, lengths)
        torch.ops.gpubench.mla_decode(query, rope, cache, table, lengths, out, scratch, **options)
        return before, cache.nansum(), out * 1

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    before, after, got = compiled(*make(case))
    plain = step(*make(case))
    torch.testing.assert_close((before, after, got), plain)
    assert before != after, "the compiled step reads the cache before and after the write"

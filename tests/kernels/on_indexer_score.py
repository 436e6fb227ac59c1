"""What runs in the interpreter's process: one launch of indexer_score, and how far it is from fp64."""

from __future__ import annotations

import torch


def make(sequences, heads, dim, columns, dtype):
    torch.manual_seed(heads + dim + columns)
    q, keys = torch.randn(sequences, heads + 1, dim).to(dtype)[:, 1:], torch.randn(sequences, columns, dim).to(dtype)
    weights = (torch.rand(sequences, heads + 3) / heads).to(dtype)[:, 3:]
    lengths = torch.tensor([max(columns - 37 * number, 0) for number in range(sequences)], dtype=torch.int32)
    return q, weights, keys, lengths, torch.full((sequences + 1, columns + 5), 7.0)


def score_error(sequences, heads, dim, columns, dtype):
    from gpubench.kernels.indexer_score import indexer_score

    q, weights, keys, lengths, border = make(sequences, heads, dim, columns, dtype)
    out = border[:sequences, : columns + 3]
    indexer_score(q, weights, keys, lengths, out)
    assert (border[sequences] == 7).all() and (border[:, columns + 3 :] == 7).all(), "nothing is written beyond it"
    products = torch.relu(torch.einsum("bhd,btd->bht", q.double(), keys.double()))
    expected = torch.einsum("bh,bht->bt", weights.double(), products)
    inside = torch.arange(columns + 3) < lengths[:, None]
    assert (out[~inside] == float("-inf")).all(), "what is beyond a length is −inf"
    expected, got = expected[inside[:, :columns]], out[inside].double()
    return ((got - expected).norm() / expected.norm()).item()


def check_operator():
    from gpubench.kernels import indexer_score  # noqa: F401 (registers it)

    arguments = make(2, 4, 16, 20, torch.float32)
    out = torch.zeros(2, 24)
    operator = torch.ops.gpubench.indexer_score
    torch.library.opcheck(operator.default, (*arguments[:4], out))

    def step(*arguments):
        operator(*arguments)
        return arguments[-1][:, 0] * 2

    return torch.compile(step, fullgraph=True, backend="aot_eager")(*arguments[:4], out), out[:, 0] * 2


def call(*arguments):
    from gpubench.kernels.indexer_score import indexer_score

    indexer_score(*arguments)

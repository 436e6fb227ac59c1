"""The modes of a decode step on a GPU: a captured graph to the bit, compiled code within tolerance, any batch."""

from __future__ import annotations

import pytest
import torch
from decoding import SHAPES, TINY, decode, distance, find_tiny, follow, remembered, vary_weights

from gpubench.errors import Unsupported
from gpubench.registry import get_workload
from gpubench.workloads import load_builtin

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")]

load_builtin()
STEPS = 256


GPU = torch.device("cuda:0")


def set_up(name, backend, **arguments):
    """The step of a mode and its inputs, the same for all modes. As in a worker, steps have no default device."""
    workload = get_workload("decode_step")
    torch.manual_seed(0)
    with GPU:
        try:
            inputs = workload.make(**{"model": name, "shape": SHAPES.get(name), **arguments})
        except Unsupported as reason:
            pytest.skip(str(reason))
        return workload.backends[backend].setup(**inputs), inputs


def differ(name, found, wanted):
    """Why these logits [steps, batch, vocabulary] are beyond the workload's tolerance, if they are."""
    out, ref = ({"logits": each.flatten(0, 1), "tokens": each.flatten(0, 1).argmax(-1)} for each in (found, wanted))
    return get_workload("decode_step").compare_function(out, ref, name)


@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("name", TINY)
def test_a_captured_graph_gives_eagers_bits_over_256_steps_and_leaves_its_cache(name, attention):
    arguments = {"concurrency": 3, "isl": STEPS + 1, "dtype": "float32", "attention": attention}
    eager, inputs = set_up(name, "eager", **arguments)
    wanted = follow(eager, inputs, STEPS)
    graph, own = set_up(name, "graph", **arguments)
    own["cache"].restore()
    found = follow(graph, own, STEPS)
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.logits, wanted.logits)
    for one, other in zip(remembered(own["cache"]), remembered(inputs["cache"]), strict=True):
        assert torch.equal(one, other)
    assert len(wanted.tokens.unique()) > 100, "a run in circles would tell little"


# Inductor's own imports use what torch has since deprecated; and it advises less exact products.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("name", TINY)
def test_compiled_chooses_eagers_tokens_over_256_steps_and_leaves_its_cache(name):
    one_of_each_kind = {"attention_every": 2} if name == "tiny-hybrid" else SHAPES.get(name)
    arguments = {"concurrency": 3, "isl": STEPS + 1, "dtype": "float32", "layers": 2, "shape": one_of_each_kind}
    eager, inputs = set_up(name, "eager", **arguments)
    wanted = follow(eager, inputs, STEPS)
    compiled, own = set_up(name, "compiled", **arguments)
    found = follow(compiled, own, STEPS, given=wanted.tokens)
    assert distance(found.logits, wanted.logits) < 1e-4
    assert torch.equal(found.tokens, wanted.tokens)
    for one, other in zip(remembered(own["cache"]), remembered(inputs["cache"]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("attention", "dtype"), [("torch", torch.float32), ("triton", torch.float32), ("triton", torch.bfloat16)]
)
@pytest.mark.parametrize("name", TINY)
def test_a_sequence_gets_the_same_logits_alone_in_any_company_and_beside_rows_of_nan(name, attention, dtype):
    torch.manual_seed(0)
    with GPU:
        try:
            model = find_tiny(name).build(dtype, attention)
        except Unsupported as reason:
            pytest.skip(str(reason))
        vary_weights(model)
        model.embedding[0] = torch.nan
        given = torch.randint(1, model.config.vocabulary, (80, 9))
    company = decode(model, given)
    for rows in ([5], [5, 0, 7], [3, 8, 1, 4, 5, 2, 6, 0]):
        assert differ(name, decode(model, given[:, rows]), company[:, rows]) is None
    given[:, 3:] = 0
    padded = decode(model, given)
    assert padded[:, 3:].isnan().all()
    assert differ(name, padded[:, :3], company[:, :3]) is None


@pytest.mark.filterwarnings("ignore")  # a foreign library's
@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("name", TINY)
def test_every_logit_is_what_transformers_computes_here(name, attention):
    pytest.importorskip("transformers", minversion="5.23")
    from gpubench.models.peers.build import build_peer

    torch.manual_seed(0)
    with GPU:
        try:
            model = find_tiny(name).build(torch.float32, attention)
        except Unsupported as reason:
            pytest.skip(str(reason))
        vary_weights(model)
        given = torch.randint(model.config.vocabulary, (80, 3))
        peer = build_peer(model, GPU)
    assert distance(decode(model, given), decode(peer, given)) < 1e-3


WIDE = {  # as many layers as it takes to have one of each kind, and as many experts as the rest of memory may hold
    "llama-3.1-8b": {"layers": 2},
    "qwen3.5-35b-a3b": {"layers": 4},
    "deepseek-v3": {"layers": 2, "shape": {"dense_layers": 1, "moe": {"experts": 64}}},
    "deepseek-v3.2": {"layers": 2, "shape": {"dense_layers": 1, "moe": {"experts": 64}}},
    "minimax-m3": {"layers": 2, "shape": {"dense_layers": 1, "moe": {"experts": 32}}},
}


@pytest.mark.filterwarnings("ignore")  # a foreign library's
@pytest.mark.parametrize("name", WIDE)
def test_layers_of_real_width_compute_what_transformers_does(name):
    pytest.importorskip("transformers", minversion="5.23")
    arguments = {"concurrency": 4, "isl": 4096, "dtype": "bfloat16", **WIDE[name]}
    workload = get_workload("decode_step")
    torch.manual_seed(0)
    with GPU:
        inputs = workload.make(model=name, **arguments)
        steps = {mode: workload.backends[mode].setup(**inputs) for mode in ("transformers", "eager", "graph")}
    outputs = {}
    for mode, step in steps.items():
        inputs["cache"].restore()
        outputs[mode] = {key: value.clone() for key, value in step().items()}
    for mode in ("eager", "graph"):
        assert workload.compare_function(outputs[mode], outputs["transformers"], name) is None

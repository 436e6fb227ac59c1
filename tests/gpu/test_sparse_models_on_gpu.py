"""Block-sparse decoders on a GPU: captured steps, our kernels beside torch's operators, and one rank of several."""

from __future__ import annotations

import pytest
import torch
from decoding import distance, vary_weights

from gpubench.graphs.whole import capture_step
from gpubench.models.presets import PRESETS
from gpubench.models.variant import Variant
from gpubench.tensors import find_tensors
from gpubench.workloads.decode_step import next_tokens

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype feature:UserWarning"),
]

LENGTHS = {"tiny-sparse": 150, "minimax-m3": 5000}
"""More blocks than are chosen, the last one not full."""


@pytest.fixture(autouse=True)
def on_gpu():
    with torch.device("cuda:0"):
        torch.manual_seed(0)
        yield
    torch.cuda.empty_cache()


@pytest.fixture
def no_sync():
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def make(name, parallel, dtype, attention):
    """minimax-m3 with one layer of all its experts behind its dense ones, and fewer words: 17 GB in bfloat16."""
    variant = (
        Variant(name, 4, parallel, 8 if parallel else 1, shape={"vocabulary": 4096})
        if name == "minimax-m3"
        else Variant(name, None, parallel, 2 if parallel else 1)
    )
    config = variant.config
    model = config.build(dtype, attention)
    vary_weights(model)
    return model, model.make_cache(4, LENGTHS[name]), torch.randint(config.vocabulary, (4,))


@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("parallel", [None, "TEP", "DEP"])
@pytest.mark.parametrize("name", ["tiny-sparse", "minimax-m3"])
def test_a_captured_step_equals_the_eager_one_bit_by_bit(name, parallel, attention):
    model, cache, given = make(name, parallel, torch.bfloat16, attention)
    eager = next_tokens(model, cache, given)
    left = [tensor.clone() for tensor in find_tensors(cache)]
    captured = capture_step(lambda tokens: next_tokens(model, cache, tokens), given)
    for _ in range(3):
        outputs = captured(given)
        assert torch.equal(outputs["logits"], eager["logits"])
        assert torch.equal(outputs["tokens"], eager["tokens"])
    for own, other in zip(find_tensors(cache), left, strict=True):
        assert torch.equal(own, other)
    assert not captured(torch.randint(model.config.vocabulary, (4,)))["logits"].equal(eager["logits"])


@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("parallel", [None, "DEP"])
def test_a_step_and_a_restore_do_not_synchronise(parallel, attention, no_sync):
    model, cache, given = make("tiny-sparse", parallel, torch.bfloat16, attention)
    for _ in range(2):
        model(given, cache)
        cache.restore()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["tiny-sparse", "minimax-m3"])
def test_our_kernels_in_their_layer_compute_what_torch_does(name, dtype):
    # A layer alone: in a model, a rounding may send a token to another expert. And blocks whose scores lie far apart.
    small = {"experts": 8, "intermediate": 64, "shared_intermediate": 64}
    config = Variant(name, 4, shape={"layers": 4, "vocabulary": 256, "dense_intermediate": 64, "moe": small}).config
    model, plain = config.build(dtype, "triton"), config.build(dtype, "torch")
    vary_weights(model)
    plain.load_state_dict(model.state_dict())
    cache, x = model.make_cache(4, LENGTHS[name]), torch.randn(4, config.hidden, dtype=dtype)
    index = config.dense_layers
    own, rotary = cache.layers[index], cache.rotary
    spread = 50 * 1.05 ** torch.randperm(len(own.index_keys))[:, None]
    own.index_keys[:, 0], own.index_keys[:, 1] = spread, -spread  # one of them suits every query
    ours, theirs = (each.layers[index].mixing(x, own, cache.pages, rotary) - x for each in (model, plain))
    assert distance(ours, theirs) < {torch.float32: 1e-3, torch.bfloat16: 2e-2}[dtype]


# Inductor's own imports use what torch has since deprecated, and it tells of tensor cores.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:TensorFloat32 tensor cores:UserWarning")
@pytest.mark.parametrize("attention", ["torch", "triton"])
def test_a_compiled_step_equals_the_eager_one(attention):
    torch.compiler.reset()
    model, cache, given = make("tiny-sparse", None, torch.float32, attention)
    compiled = torch.compile(next_tokens, fullgraph=True, dynamic=False)
    eager = next_tokens(model, cache, given)["logits"]
    torch.testing.assert_close(compiled(model, cache, given)["logits"], eager, rtol=1e-3, atol=1e-3)


def test_one_rank_of_eight_of_the_whole_model_fits_and_takes_a_step():
    if torch.cuda.mem_get_info()[0] < 120e9:
        pytest.skip("needs 120 GB of free memory")
    share = PRESETS["minimax-m3"].rank_share("TEP", 8)
    model = share.build(torch.bfloat16, "triton")
    held = torch.cuda.memory_allocated()
    assert held == pytest.approx(share.weight_bytes(2), rel=1e-3)
    logits = model(torch.zeros(2, dtype=torch.int64), model.make_cache(2, 8192))
    assert logits.isfinite().all()

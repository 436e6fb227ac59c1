"""Our families against transformers' models of the same shape and weights, logit by logit in float32."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from decoding import TINY, decode, distance, find_tiny, remembered, vary_weights

from gpubench.errors import Unsupported
from gpubench.models.peers.build import build_peer
from gpubench.models.presets import PRESETS
from gpubench.models.variant import Variant

pytestmark = pytest.mark.filterwarnings("ignore")  # a foreign library's

CPU = torch.device("cpu")


def make(name, dtype=torch.float32):
    torch.manual_seed(0)
    model = find_tiny(name).build(dtype)
    vary_weights(model)
    return model, build_peer(model, CPU)


@pytest.mark.parametrize("name", TINY)
def test_decoding_token_by_token_gives_what_transformers_computes_for_whole_sequences(name):
    model, peer = make(name)
    given = torch.randint(model.config.vocabulary, (128, 2))
    with torch.no_grad():
        whole = peer.model(given.T, use_cache=False).logits
    assert distance(decode(model, given), whole.transpose(0, 1)) < 1e-4


@pytest.mark.parametrize("name", TINY)
def test_step_by_step_transformers_chooses_our_tokens_and_leaves_our_cache(name):
    model, peer = make(name)
    ours = model.make_cache(batch=3, length=128)
    theirs = deepcopy(ours)
    tokens = torch.randint(model.config.vocabulary, (3,))
    for length in range(1, 129):
        found, wanted = peer(tokens, theirs.prefix(length)), model(tokens, ours.prefix(length))
        assert distance(found, wanted) < 1e-4
        tokens = wanted.argmax(dim=-1)
        assert torch.equal(found.argmax(dim=-1), tokens)
    for own, other in zip(remembered(theirs), remembered(ours), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", TINY)
def test_what_is_large_is_shared_not_copied(name):
    model, peer = make(name, torch.bfloat16)
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    copied = [weight for weight in peer.model.parameters() if weight.untyped_storage().data_ptr() not in own]
    assert sum(weight.nbytes for weight in copied) < 0.1 * model.config.weight_bytes(itemsize=2)
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in TINY])
def test_real_models_have_transformers_weights_each_of_its_shape_and_as_many(name):
    nowhere = torch.device("meta")  # where tensors have shapes alone
    with nowhere:
        model = PRESETS[name].build(torch.bfloat16)
    peer = build_peer(model, nowhere)
    weights = sum(weight.numel() for weight in (*peer.model.parameters(), *peer.model.buffers()))
    angles = sum(buffer.numel() for buffer in peer.model.model.rotary_emb.buffers())
    assert weights - angles == model.config.parameters


# What a published configuration may set beyond the shape, and what transformers derives.
LEFT_OPEN = {"max_position_embeddings", "rope_parameters", "layer_types", "mlp_layer_types"}


@pytest.mark.parametrize("name", ["qwen3.5-35b-a3b", "deepseek-v3", "deepseek-v3.2", "minimax-m3"])
def test_real_shapes_are_those_that_transformers_takes_for_granted(name):
    with torch.device("meta"):
        config = build_peer(PRESETS[name].build(torch.bfloat16), torch.device("meta")).model.config
    told, granted = config.to_dict(), type(config)().to_dict()
    sizes = {key: value for key, value in told.items() if type(value) in (int, float) and key not in LEFT_OPEN}
    assert len(sizes) > 15
    assert sizes == {key: granted[key] for key in sizes}


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("tiny-hybrid", {"moe": {"scoring": "sigmoid"}}, r"moe\.scoring"),
        ("tiny-hybrid", {"moe": {"groups": 4, "top_groups": 2}}, r"moe\.groups"),
        ("tiny-hybrid", {"moe": {"scale": 2.0}}, r"moe\.scale"),
        ("tiny-mla", {"moe": {"has_shared_gate": True}}, r"moe\.has_shared_gate"),
        ("tiny-mla", {"moe": {"activation": "swiglu_oai"}}, r"moe\.activation"),
        ("tiny-mla", {"moe": {"shared_intermediate": 100}}, r"moe\.shared_intermediate"),
        ("tiny-mla", {"moe": {"shared_intermediate": 0}}, r"moe\.shared_intermediate: 0"),
        ("tiny-sparse", {"moe": {"shared_intermediate": 0}}, r"moe\.shared_intermediate: 0"),
        ("tiny-mla", {"norm_eps": 1e-5}, "norm_eps"),
        ("tiny-sparse", {"moe": {"activation": "swiglu"}}, r"moe\.activation"),
        ("tiny-sparse", {"moe": {"scoring": "softmax"}}, r"moe\.scoring"),
    ],
)
def test_what_transformers_would_compute_otherwise_is_unsupported(name, shape, reason):
    model = Variant(name, shape=shape).config.build(torch.float32)
    with pytest.raises(Unsupported, match=reason):
        build_peer(model, CPU)


def test_a_model_that_transformers_does_not_have_is_unsupported():
    with pytest.raises(Unsupported, match="no model like Linear"):
        build_peer(torch.nn.Linear(1, 1), CPU)

"""Our families against transformers' models of the same shape and weights, logit by logit in float32."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from decoding import TINY, distance, find_tiny, remembered, vary_weights

from gpubench.errors import Unsupported
from gpubench.models.gated_delta import GatedDeltaCache
from gpubench.models.peers.build import build_peer

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
    given = torch.randint(model.config.vocabulary, (2, 150))
    cache = model.make_cache(*given.shape)
    for layer in getattr(cache, "layers", []):
        if isinstance(layer, GatedDeltaCache):  # as if nothing had been read yet
            layer.state.zero_()
            layer.conv.zero_()
    decoded = [model(given[:, step].contiguous(), cache.prefix(step + 1)) for step in range(given.shape[1])]
    with torch.no_grad():
        whole = peer.model(given, use_cache=False).logits
    assert distance(torch.stack(decoded, dim=1), whole) < 1e-4


@pytest.mark.parametrize("name", TINY)
def test_over_256_steps_transformers_chooses_our_tokens_and_leaves_our_cache(name):
    model, peer = make(name)
    ours = model.make_cache(batch=3, length=256)
    theirs = deepcopy(ours)
    tokens = torch.randint(model.config.vocabulary, (3,))
    for length in range(1, 257):
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


def test_a_model_that_transformers_does_not_have_is_unsupported():
    with pytest.raises(Unsupported, match="no model like Linear"):
        build_peer(torch.nn.Linear(1, 1), CPU)

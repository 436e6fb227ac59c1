"""Sequences that come and go, against each of them whole: prefill in any chunks, decoding between idle rows."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from decoding import vary_weights
from models.whole_sequences import forward_whole
from slots import CAPACITY, SLOTS, Guest, draw_sequences, prefill, remembered, rows_of, serve

from gpubench.errors import ArgumentError, Unsupported
from gpubench.models.gated_delta import GatedDeltaCache
from gpubench.models.presets import PRESETS
from gpubench.models.variant import Variant

FAMILIES = ["tiny-dense", "tiny-hybrid", "tiny-mla"]


@functools.cache
def make(name):
    return make_from(PRESETS[name])


def make_from(config, attention="torch"):
    torch.manual_seed(0)
    model = config.build(torch.float32, attention)
    vary_weights(model)
    return model


@functools.cache
def sequences(name):
    """Some sequences, and the logits of all their positions by the oracle."""
    torch.manual_seed(1)
    return [(given, forward_whole(make(name), given)) for given in draw_sequences(1024)]


def assert_logits(found, wanted):
    """The same logits, and the same tokens chosen by them, or as good ones."""
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    chosen = wanted.gather(1, found.argmax(dim=1, keepdim=True))[:, 0]
    assert (wanted.amax(dim=1) - chosen).max() < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_sequences_that_share_slots_in_any_order_give_the_logits_of_each_whole(name, seed):
    given, wanted = zip(*sequences(name), strict=True)
    for own, other in zip(serve(make(name), given, Random(seed)), wanted, strict=True):
        assert_logits(own, other)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sizes", [[70], [1] * 70, [3, 20, 2, 31, 14], [69, 1]])
def test_a_prompt_in_any_chunks_gives_the_logits_of_the_whole(name, sizes):
    model, (tokens, wanted) = make(name), sequences(name)[3]
    slots, first, found = model.make_slots(SLOTS, CAPACITY), 0, []
    for size in sizes:
        found.append(prefill(model, slots, 1, first, tokens[first : first + size]))
        first += size
    assert_logits(torch.cat(found), wanted)


@pytest.mark.parametrize("name", FAMILIES)
def test_idle_rows_change_not_one_bit_of_their_slots_and_no_row_another(name):
    model = make(name)
    slots = model.make_slots(SLOTS, CAPACITY)
    for slot in range(SLOTS):
        prefill(model, slots, slot, 0, torch.randint(1024, (5 + slot,)))
    before = [[part.clone() for part in remembered(slots, slot)] for slot in range(SLOTS)]
    assert before[0]
    model.decode(*rows_of({1: Guest(torch.randint(1024, (9,)), 0, 0, done=6)}), slots)
    for slot in range(SLOTS):
        same = [torch.equal(*pair) for pair in zip(before[slot], remembered(slots, slot), strict=True)]
        assert not any(same) if slot == 1 else all(same)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_slot_that_was_cleared_remembers_nothing(name):
    model, given = make(name), torch.randint(1024, (12,))
    logits = []
    for past in (0, 17):
        slots = model.make_slots(SLOTS, CAPACITY)
        if past:
            prefill(model, slots, 2, 0, torch.randint(1024, (past,)))
            slots.clear(2)
        first = prefill(model, slots, 2, 0, given[:7])
        second = model.decode(*rows_of({2: Guest(given, 0, 7, done=7)}), slots)[2:]
        logits.append(torch.cat((first, second)))
    assert torch.equal(*logits)


def test_a_sequence_that_is_not_cleared_away_stays_in_a_hybrids_states():
    model = make("tiny-hybrid")
    slots = model.make_slots(SLOTS, CAPACITY)
    first, second = (prefill(model, slots, 2, 0, torch.arange(4)) for _ in range(2))
    assert (first - second).norm() > 0.01 * first.norm()
    slots.clear(2)
    layers = [layer for layer in slots.layers if isinstance(layer, GatedDeltaCache)]
    assert not any(layer.state.any() or layer.conv.any() for layer in layers)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_token_without_a_position_is_an_error(name):
    model = make(name)
    slots = model.make_slots(SLOTS, CAPACITY)
    with pytest.raises(ArgumentError, match="3 tokens are given 2 positions"):
        model.decode(torch.zeros(3, dtype=torch.int64), torch.zeros(2, dtype=torch.int32), slots)


@pytest.mark.parametrize(
    ("name", "reason"), [("tiny-mla-indexer", "with an indexer"), ("tiny-sparse", "block-sparse attention")]
)
def test_families_that_cannot_prefill_say_so(name, reason):
    with pytest.raises(Unsupported, match=f"prefill isn't there .*{reason}"):
        PRESETS[name].build(torch.float32).make_slots(SLOTS, CAPACITY)


def test_our_kernels_serve_the_same():
    # In a process of its own: Triton decides at import whether it interprets.
    paths = [str(Path(__file__).parents[1])]
    ran = subprocess.run(
        [sys.executable, __file__],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def serve_with_kernels() -> None:
    """A chunk behind another, then a step between idle rows: the oracle's logits, and idle slots as they were."""
    for name in FAMILIES:
        shape = {} if name == "tiny-dense" else {"moe": {"experts": 8, "top_k": 2}, "vocabulary": 64}
        shape |= {"attention_every": 2} if name == "tiny-hybrid" else {}
        model, given = make_from(Variant(name, layers=2, shape=shape).config, "triton"), torch.randint(64, (9,))
        slots = model.make_slots(SLOTS, CAPACITY)
        found = [prefill(model, slots, 1, 0, given[:5]), prefill(model, slots, 1, 5, given[5:8])]
        before = [[part.clone() for part in remembered(slots, slot)] for slot in range(SLOTS)]
        logits = model.decode(*rows_of({1: Guest(given, 0, 0, done=8)}), slots)
        assert logits.isfinite().all()
        assert_logits(torch.cat((*found, logits[1:])), forward_whole(model, given))
        for slot in range(SLOTS):
            same = [torch.equal(*pair) for pair in zip(before[slot], remembered(slots, slot), strict=True)]
            assert not any(same) if slot == 1 else all(same)


if __name__ == "__main__":
    serve_with_kernels()

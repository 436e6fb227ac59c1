"""Sequences that come and go, against each of them whole: prefill in any chunks, decoding between idle rows."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import pytest
import torch
from decoding import vary_weights
from whole_sequences import forward_whole

from gpubench.models.base import Chunk
from gpubench.models.gated_delta import GatedDeltaCache
from gpubench.models.presets import PRESETS
from gpubench.tensors import find_tensors

FAMILIES = ["tiny-dense", "tiny-hybrid"]
SLOTS, CAPACITY = 3, 40


@functools.cache
def make(name):
    torch.manual_seed(0)
    model = PRESETS[name].build(torch.float32)
    vary_weights(model)
    return model


@functools.cache
def sequences(name):
    """Some sequences, and the logits of all their positions by the oracle."""
    torch.manual_seed(1)
    tokens = [torch.randint(1024, (length,)) for length in (1, 9, 33, 40, 17)]
    return [(given, forward_whole(make(name), given)) for given in tokens]


@dataclass
class Guest:
    """A sequence in its slot."""

    tokens: torch.Tensor
    number: int
    prompt: int
    """Of its tokens, how many are prefilled; the others are decoded."""
    done: int = 0


def prefill(model, slots, slot, first, tokens):
    """Logits of a chunk."""
    positions = torch.arange(first, first + len(tokens), dtype=torch.int32)
    return model.logits(model.prefill(tokens, positions, Chunk(slots, torch.tensor([slot, first]))))


def decode(model, slots, guests):
    """One step of the guests by slot; logits by slot."""
    rows = max(guests) + 1
    tokens, positions = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), -1, dtype=torch.int32)
    for slot, guest in guests.items():
        tokens[slot], positions[slot] = guest.tokens[guest.done], guest.done
    logits = model.decode(tokens, positions, slots)
    assert logits.isfinite().all()
    return logits


def serve(model, given, chosen):
    """Logits of all sequences, in slots that they take in turn, by a schedule drawn from `chosen`."""
    slots = model.make_slots(SLOTS, CAPACITY)
    waiting = [Guest(tokens, number, chosen.randint(0, len(tokens))) for number, tokens in enumerate(given)]
    found = [[] for _ in given]
    present = {}
    while waiting or present:
        free = [slot for slot in range(SLOTS) if slot not in present]
        if waiting and free:
            slot = chosen.choice(free)
            slots.clear(slot)
            present[slot] = waiting.pop(0)
        slot, guest = chosen.choice(list(present.items()))
        if guest.done < guest.prompt:
            size = chosen.choice([1, 2, 3, 5, guest.prompt])
            tokens = guest.tokens[guest.done : min(guest.done + size, guest.prompt)]
            found[guest.number].extend(prefill(model, slots, slot, guest.done, tokens))
            guest.done += len(tokens)
        ready = {slot: guest for slot, guest in present.items() if guest.prompt <= guest.done < len(guest.tokens)}
        ready = {slot: guest for slot, guest in ready.items() if chosen.random() < 0.8}
        if ready:
            logits = decode(model, slots, ready)
            for slot, guest in ready.items():
                found[guest.number].append(logits[slot])
                guest.done += 1
        present = {slot: guest for slot, guest in present.items() if guest.done < len(guest.tokens)}
    return [torch.stack(rows) for rows in found]


def assert_logits(found, wanted):
    """The same logits, and the same tokens chosen by them, or as good ones."""
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)
    chosen = wanted.gather(1, found.argmax(dim=1, keepdim=True))[:, 0]
    assert (wanted.amax(dim=1) - chosen).max() < 1e-4


def parts_of(slots, slot):
    """What a slot remembers: all tensors that have a row for each."""
    return [tensor[slot] for tensor in find_tensors(slots) if tensor.dim() > 2 and len(tensor) == SLOTS]


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_sequences_that_share_slots_in_any_order_give_the_logits_of_each_whole(name, seed):
    given, wanted = zip(*sequences(name), strict=True)
    for own, other in zip(serve(make(name), given, random.Random(seed)), wanted, strict=True):
        assert_logits(own, other)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("sizes", [[40], [1] * 40, [3, 20, 2, 1, 14], [39, 1]])
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
    before = [[part.clone() for part in parts_of(slots, slot)] for slot in range(SLOTS)]
    assert before[0]
    decode(model, slots, {1: Guest(torch.randint(1024, (9,)), 0, 0, done=6)})
    for slot in range(SLOTS):
        same = [torch.equal(*pair) for pair in zip(before[slot], parts_of(slots, slot), strict=True)]
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
        guest = Guest(given, 0, 7, done=7)
        logits.append(torch.cat((first, decode(model, slots, {2: guest})[2:])))
    assert torch.equal(*logits)


def test_a_sequence_that_is_not_cleared_away_stays_in_a_hybrids_states():
    model = make("tiny-hybrid")
    slots = model.make_slots(SLOTS, CAPACITY)
    first, second = (prefill(model, slots, 2, 0, torch.arange(4)) for _ in range(2))
    assert (first - second).norm() > 0.01 * first.norm()
    slots.clear(2)
    layers = [layer for layer in slots.layers if isinstance(layer, GatedDeltaCache)]
    assert not any(layer.state.any() or layer.conv.any() for layer in layers)

"""What tests of serving share: sequences that come and go in a model's slots, by a schedule that is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor

from gpubench.models.base import Chunk, ServingModel
from gpubench.models.deepseek import DeepseekCache
from gpubench.tensors import find_tensors

SLOTS, CAPACITY = 3, 80
LENGTHS = (1, 9, 33, 70, 17)
"""Of sequences that are more than the slots."""


@dataclass
class Guest:
    """A sequence in its slot."""

    tokens: Tensor
    number: int
    prompt: int
    """Of its tokens, how many are prefilled; the others are decoded."""
    done: int = 0


def draw_sequences(vocabulary: int) -> list[Tensor]:
    """Tokens, on the default device."""
    return [torch.randint(vocabulary, (length,)) for length in LENGTHS]


def prefill(model: ServingModel, slots: Any, slot: int, first: int, tokens: Tensor) -> Tensor:
    """Logits of a chunk."""
    positions = torch.arange(first, first + len(tokens), dtype=torch.int32)
    span = torch.tensor([slot, first], device="cpu")
    return model.logits(model.prefill(tokens, positions, Chunk(slots, span)))


def rows_of(guests: Mapping[int, Guest]) -> tuple[Tensor, Tensor]:
    """Tokens and positions of a step that these guests take by slot; the rows between are idle."""
    rows = max(guests) + 1
    tokens, positions = torch.zeros(rows, dtype=torch.int64), torch.full((rows,), -1, dtype=torch.int32)
    for slot, guest in guests.items():
        tokens[slot], positions[slot] = guest.tokens[guest.done], guest.done
    return tokens, positions


def serve(model: ServingModel, given: Sequence[Tensor], chosen: Random) -> list[Tensor]:
    """Logits of all positions of all sequences, in slots that they take in turn."""
    slots = model.make_slots(SLOTS, CAPACITY)
    waiting = [Guest(tokens, number, chosen.randint(0, len(tokens))) for number, tokens in enumerate(given)]
    found: list[list[Tensor]] = [[] for _ in given]
    present: dict[int, Guest] = {}
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
            logits = model.decode(*rows_of(ready), slots)
            assert logits.isfinite().all(), "idle rows, too"
            for slot, guest in ready.items():
                found[guest.number].append(logits[slot])
                guest.done += 1
        present = {slot: guest for slot, guest in present.items() if guest.done < len(guest.tokens)}
    return [torch.stack(rows) for rows in found]


def remembered(slots: Any, slot: int) -> list[Tensor]:
    """What a slot remembers: its pages, or its row of every tensor that has one for each."""
    if isinstance(slots, DeepseekCache):
        return [entries[slots.pages.table[slot].long()] for entries in slots.entries]
    return [tensor[slot] for tensor in find_tensors(slots) if tensor.dim() > 2 and len(tensor) == SLOTS]

"""An engine without a model, which is particular about how it is called: for the loop's own tests."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

VOCABULARY = 997
_PRIME = 1_000_003


def answer_alone(prompt: Tensor, osl: int) -> list[int]:
    """What the fake model answers to a prompt that nobody is served beside."""
    state = 0
    for token in prompt.tolist():
        state = _read(state, token)
    answer = []
    for _ in range(osl):
        answer.append(state % VOCABULARY)
        state = _read(state, answer[-1])
    return answer


def _read(state: int, token: int) -> int:
    return (state * 31 + token + 7) % _PRIME


@dataclass
class _Sequence:
    state: int = 0
    length: int = 0
    prompt_is_read: bool = False


@dataclass
class FakeEngine:
    """A token follows from all that its slot has read: one that is missing, doubled or another's shows."""

    slots: int
    prefill_chunk: int
    sequences: list[_Sequence] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    """Of each decode step."""

    def __post_init__(self) -> None:
        self.sequences = [_Sequence(length=-1) for _ in range(self.slots)]
        self._tokens = torch.zeros(self.slots, dtype=torch.int64)

    def clear(self, slot: int) -> None:
        self.sequences[slot] = _Sequence()

    def prefill(self, tokens: Tensor, slot: int, first: int, *, is_last: bool) -> Tensor | None:
        sequence = self.sequences[slot]
        assert sequence.length == first and not sequence.prompt_is_read
        assert len(tokens) == self.prefill_chunk or (is_last and 0 < len(tokens) < self.prefill_chunk)
        for token in tokens.tolist():
            sequence.state = _read(sequence.state, token)
        sequence.length += len(tokens)
        sequence.prompt_is_read = is_last
        return torch.tensor([sequence.state % VOCABULARY]) if is_last else None

    def decode(self, tokens: Tensor, positions: Tensor) -> Tensor:
        assert tokens.dtype == torch.int64 and positions.dtype == torch.int32 and tokens.shape == positions.shape
        self.rows.append(len(tokens))
        assert positions[-1] >= 0, "the last row decodes"
        out = self._tokens[: len(tokens)]
        out.fill_(VOCABULARY)  # what an idle row gives is nobody's
        for slot, (token, position) in enumerate(zip(tokens.tolist(), positions.tolist(), strict=True)):
            if position == -1:
                continue
            sequence = self.sequences[slot]
            assert sequence.length == position and sequence.prompt_is_read
            sequence.state = _read(sequence.state, token)
            sequence.length += 1
            out[slot] = sequence.state % VOCABULARY
        return out

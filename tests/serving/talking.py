"""What tests of engines share: users who come and go, and what each is to be answered."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gpubench.models.base import Chunk, ServingModel
from gpubench.serving.engine import Engine


def prompts_of(lengths: Sequence[int]) -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.randint(1024, (length,)) for length in lengths]


def talk(engine: Engine, prompts: Sequence[Tensor], slots: int, chunk: int, shortest: int) -> list[list[int]]:
    """The answers, of `shortest` tokens and up to two more, to prompts that come one after the other.

    Each has the slot that has been free longest. While one is read, those that were read decode: so batches grow,
    shrink, and have idle rows in between.
    """
    answers: dict[int, list[int]] = {}
    decoding: dict[int, int] = {}
    free, waiting = list(range(slots)), list(enumerate(prompts))
    while waiting or decoding:
        if waiting and free:
            (number, prompt), slot = waiting.pop(0), free.pop(0)
            engine.clear(slot)
            for first in range(0, len(prompt), chunk):
                is_last = first + chunk >= len(prompt)
                token = engine.prefill(prompt[first : first + chunk], slot, first, is_last=is_last)
                assert (token is not None) == is_last
            assert token is not None
            answers[number], decoding[slot] = [int(token)], number
        tokens = torch.zeros(max(decoding) + 1, dtype=torch.int64)
        positions = torch.full_like(tokens, -1, dtype=torch.int32)
        for slot, number in decoding.items():
            tokens[slot] = answers[number][-1]
            positions[slot] = len(prompts[number]) + len(answers[number]) - 1
        chosen = engine.decode(tokens, positions).tolist()
        for slot, number in list(decoding.items()):
            answers[number].append(chosen[slot])
            if len(answers[number]) == shortest + number % 3:
                free.append(slot)
                del decoding[slot]
    return [answers[number] for number in range(len(prompts))]


def answer_alone(model: ServingModel, prompt: Tensor, answer: Sequence[int]) -> list[int]:
    """What the model chooses after the prompt and after each token of the answer, all read at once by itself."""
    read = torch.cat((prompt, torch.tensor(answer[:-1])))
    chunk = Chunk(model.make_slots(1, len(read)), torch.zeros(2, dtype=torch.int64, device="cpu"))
    hidden = model.prefill(read, torch.arange(len(read), dtype=torch.int32), chunk)
    found: list[int] = model.logits(hidden[len(prompt) - 1 :]).argmax(dim=-1).tolist()
    return found

"""Elements that lie further apart than 32 bits count are found, or refused; and what no launch could be made of."""

from __future__ import annotations

import pytest
import torch
from offsets_on_interpreter import far_entries, far_heads, far_keys, far_layer, refuse

from gpubench.errors import ArgumentError


@pytest.mark.parametrize("launch", [far_layer, far_entries, far_heads, far_keys])
def test_rows_that_begin_behind_two_to_the_31_elements_are_found(interpreted, tmp_path, launch):
    found, wanted = interpreted(launch, tmp_path)
    torch.testing.assert_close(found.float(), wanted.float(), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("kernel", "changes", "message"),
    [
        (
            "rotate_heads",
            {"x": torch.empty_strided((2, 3, 16), (1 << 32, 1 << 30, 1), device="meta")},
            "x has stride 1,073,741,824 along dimension 1; wanted 715,827,882 at most",
        ),
        ("gqa_inputs", {"rotary": torch.zeros(9, 2, 4, device="meta")}, "rotary is torch.float32 on meta"),
        ("gqa_inputs", {"projected": torch.tensor(0.0)}, r"projected has shape \(\)"),
        ("prepare_rows", {"scale": torch.ones(0)}, r"scale has shape \(0,\); wanted a power of two"),
        ("prepare_rows", {"scale": torch.tensor(1.0)}, r"scale has shape \(\); wanted a power of two"),
        ("moe_few_down", {"inner": torch.zeros(2, 0, 8)}, r"inner has shape \(2, 0, 8\)"),
        ("moe_group", {"experts": torch.zeros(2, 3, dtype=torch.int64)}, "experts is torch.int64 on cpu; wanted"),
        ("moe_group", {"counts": torch.tensor(1, dtype=torch.int32)}, r"counts has shape \(\); wanted \(0,\)"),
        ("moe_route", {"experts": torch.tensor(1, dtype=torch.int32)}, r"experts has shape \(\)"),
    ],
)
def test_what_can_not_be_launched_is_refused_by_name(interpreted, kernel, changes, message):
    with pytest.raises(ArgumentError, match=f"{kernel}: {message}"):
        interpreted(refuse, kernel, changes)

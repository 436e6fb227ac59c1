"""Writes hybrid.json: the logits that transformers' Qwen3.5 gives for the model and tokens of `hybrid_reference`.

Needs transformers (5.23.0 made the file that is kept):

    PYTHONPATH=tests/models python tests/data/models/make_hybrid.py
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from hybrid_reference import make_model, tokens

from gpubench.models.peers.build import build_peer


def main() -> None:
    given = tokens()
    with torch.no_grad():  # whole sequences at once, without a cache
        logits = build_peer(make_model(), torch.device("cpu")).model(given, use_cache=False).logits
    record = {
        "made_by": f"transformers {transformers.__version__}, Qwen3_5MoeForCausalLM, float32",
        "tokens": given.tolist(),
        "logits": [[[float(f"{value:.7g}") for value in step] for step in row] for row in logits.tolist()],
    }
    text = json.dumps(record, separators=(",", ":")).replace("],[", "],\n[")
    (Path(__file__).parent / "hybrid.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Writes hybrid.json: the logits that transformers' Qwen3.5 gives for the model and tokens of `hybrid_reference`.

Needs transformers (5.23.0 made the file that is kept):

    PYTHONPATH=tests/models python tests/data/models/make_hybrid.py
"""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from hybrid_reference import decode_with_transformers, make_model, tokens


def main() -> None:
    given = tokens()
    logits = decode_with_transformers(make_model(), given)
    record = {
        "made_by": f"transformers {transformers.__version__}, Qwen3_5MoeForCausalLM, float32",
        "tokens": given.tolist(),
        "logits": [[[float(f"{value:.7g}") for value in step] for step in row] for row in logits.tolist()],
    }
    text = json.dumps(record, separators=(",", ":")).replace("],[", "],\n[")
    (Path(__file__).parent / "hybrid.json").write_text(text + "\n")


if __name__ == "__main__":
    main()

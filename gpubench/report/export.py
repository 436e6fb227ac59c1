"""The tidy frame for other programs: CSV, and JSON with the runs' headers."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from gpubench.report.content import Content

__all__ = ["to_csv", "to_json"]


def to_csv(content: Content) -> str:
    """A row per cell and figure, as `analysis.frames.cell_frame` has them; an empty field is a null."""
    return content.frame.to_csv(index=False, lineterminator="\n")


def to_json(content: Content) -> str:
    """`{runs: [header], figures: [row]}`: the headers as in run.json, the rows as in the CSV; NaN is null."""
    rows = [
        {str(name): _known(value) for name, value in row.items()} for row in content.frame.to_dict(orient="records")
    ]
    headers = [asdict(run.header) for run in content.runs]
    return json.dumps({"runs": headers, "figures": rows}, indent=1, ensure_ascii=False, default=str) + "\n"


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

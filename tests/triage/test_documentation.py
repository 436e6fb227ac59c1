"""What docs/triage.md promises is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

from made_failures import STORY_DEAD, story

from gpubench.analysis.run import load_run
from gpubench.report.triage import triage_json
from gpubench.triage import CLASSES, VERDICTS, read_verdicts, triage_run

DOCS = (Path(__file__).parent.parent.parent / "docs" / "triage.md").read_text(encoding="utf-8")


def test_every_class_is_in_the_docs_with_its_meaning():
    table = DOCS.partition("## The classes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \|$", table, re.MULTILINE)[2:]
    assert rows == [(found.name, found.meaning) for found in CLASSES.values()]


def test_every_key_of_the_json_is_in_the_docs(tmp_path):
    table = DOCS.partition("## JSON")[2].partition("\n## ")[0]
    told = {
        name for names in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", names)
    }
    found = json.loads(triage_json(triage_run(load_run(story(tmp_path)))))
    assert told == set(found["signatures"][0])
    assert all(key in DOCS for key in found)


def test_the_answer_that_the_docs_show_is_read(tmp_path):
    shown = json.loads(DOCS.partition("```json")[2].partition("```")[0])
    path = story(tmp_path)
    (path / VERDICTS).write_text(json.dumps(shown) + "\n")
    (verdict,) = read_verdicts(path).found
    assert verdict.culprit is not None
    (row,) = triage_run(load_run(path)).rows
    assert row.signature.culprit is not None
    assert row.signature.culprit.kernel == "radix_topk"
    assert verdict.cell_id == STORY_DEAD[0]

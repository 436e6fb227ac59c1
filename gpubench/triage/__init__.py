"""Cells that died, as a table: what is the same fault, which axis values it takes, and who lives beside it.

    triage = triage_run(load_run("results/mla-decode-20261121-093000"))

Nothing here is stored: signatures and rules are computed from a run's records when they are read, so that an old run
is told apart by today's rules.

normalise        texts without what differs from one death to the next
skip_lists       data: frames that only report, names that say nothing
classes          what kind of fault it is, from names and texts
signature        the key that cells are grouped by, and what it is made of
grid             a run's cells as columns of codes
rules · chance   what separates the dead from the living · whether random cells would have it as well
twins            each one's nearest clean cell
diagnosis        what the answers come to, in a line
verdicts         what reruns found out, from triage.jsonl
table            a run's failed cells, a row per signature
"""

from __future__ import annotations

from gpubench.triage.classes import CLASSES, FaultClass
from gpubench.triage.diagnosis import Diagnosis
from gpubench.triage.rules import Condition, Rule
from gpubench.triage.signature import Culprit, Kernel, Signature, signature_of
from gpubench.triage.table import Row, Triage, triage_run
from gpubench.triage.twins import Twin
from gpubench.triage.verdicts import VERDICTS, Answer, Rung, Verdict, read_verdicts

__all__ = [
    "CLASSES",
    "VERDICTS",
    "Answer",
    "Condition",
    "Culprit",
    "Diagnosis",
    "FaultClass",
    "Kernel",
    "Row",
    "Rule",
    "Rung",
    "Signature",
    "Triage",
    "Twin",
    "Verdict",
    "read_verdicts",
    "signature_of",
    "triage_run",
]

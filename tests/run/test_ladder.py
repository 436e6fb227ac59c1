"""What the rungs are, whom they are asked about, what is read from their records, and what the answers come to."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_failures import STORY_DEAD, failed, say, story

from gpubench.analysis.run import load_run
from gpubench.cli.escalate import choose_cells
from gpubench.records import CellRecord, Crash, FaultingKernel, Frame, Hazard, Outcome, Pass, PointerState, Stage
from gpubench.report.triage import show
from gpubench.run.answers import read_audit, read_rerun, read_sanitizer
from gpubench.run.rungs import SANITIZER_RUNGS, Tools, cells_before, choose_extra_rungs, why_not
from gpubench.run.sanitizer import parse_sanitizer
from gpubench.triage import CLASSES, VERDICTS, Answer, Diagnosis, Rung, Verdict, read_verdicts, signature_of, triage_run
from gpubench.triage.verdicts import append_verdict

LOGS = Path(__file__).parent.parent / "data" / "sanitizer"
EVERYTHING = Tools("compute-sanitizer", has_audit=True)
ILLEGAL = Crash(
    exception="torch.AcceleratorError",
    message="CUDA error: an illegal memory access was encountered",
    frames=[Frame("/home/user/engine/moe.py", 40, "run")],
)
CAUGHT = replace(
    ILLEGAL, faulting=FaultingKernel("_radix_kernel", "topk_rows.py", 146, exception="Warp Illegal Address")
)


def hazard(kernel: str, state: PointerState = PointerState.FREED) -> Hazard:
    return Hazard(kernel, "scratch", 0x7F0000000000, state, file="/k/topk_rows.py", line=120)


def unfit(record: CellRecord, tools: Tools = EVERYTHING, *, is_program: bool = False) -> dict[Rung, str]:
    return {rung: why_not(rung, signature_of(record), record, tools, is_program=is_program) for rung in Rung}


def test_a_fault_of_a_gpu_is_asked_everything():
    assert set(unfit(failed(ILLEGAL)).values()) == {""}


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (failed(ILLEGAL, gpu="cpu"), "ran on a CPU"),
        (failed(Crash(signal="SIGSEGV", exit_status=-11)), "no kernel's fault"),
        (failed(Crash(exception="ValueError"), Outcome.ERROR, Stage.SETUP), "no kernel's fault"),
        (failed(ILLEGAL, pass_=Pass.PROFILE), "under the profiler"),
    ],
)
def test_what_is_no_kernels_fault_is_only_run_again(record: CellRecord, words: str):
    reasons = unfit(record)
    assert [rung for rung, why in reasons.items() if not why] == [Rung.ALONE, Rung.AFTER_OTHERS]
    assert {words in why for why in reasons.values() if why} == {True}


def test_what_is_missing_here_is_said_with_how_to_get_it():
    reasons = unfit(failed(ILLEGAL), Tools("", has_audit=False))
    assert "GPUBENCH_COMPUTE_SANITIZER" in reasons[Rung.MEMCHECK]
    assert "gpubench[audit]" in reasons[Rung.AUDIT]
    assert reasons[Rung.GRAPHS_OFF] == ""


def test_a_capture_that_fails_is_compared_with_its_eager_step_and_asked_no_more():
    record = failed(Crash(message="cudaErrorStreamCaptureUnsupported"), Outcome.ERROR)
    assert [rung for rung, why in unfit(record).items() if not why] == [Rung.ALONE, Rung.AFTER_OTHERS, Rung.GRAPHS_OFF]


def test_the_graphs_of_another_program_are_its_own():
    reasons = unfit(failed(ILLEGAL), is_program=True)
    assert [rung for rung, why in reasons.items() if why] == [Rung.GRAPHS_OFF, Rung.AUDIT]


def test_wrong_results_are_searched_for_what_was_never_written_and_hangs_for_barriers():
    wrong = signature_of(failed(None, Outcome.MISMATCH))
    stuck = signature_of(failed(Crash(faulting=FaultingKernel("spin")), Outcome.TIMEOUT))
    assert choose_extra_rungs(wrong) == (Rung.INITCHECK, Rung.RACECHECK)
    assert choose_extra_rungs(stuck) == (Rung.SYNCCHECK,)


def test_what_ran_before_in_the_worker_is_run_again_before_it_in_that_order(tmp_path: Path):
    run = load_run(story(tmp_path))
    clock = {result.cell.cell_id: number for number, result in enumerate(run.cells)}
    for result in run.cells:
        result.records[:] = [
            replace(
                record, started_at=f"2026-11-21T09:30:{clock[record.cell_id]:02d}", worker=clock[record.cell_id] // 10
            )
            for record in result.records
        ]
    dead = next(result for result in run.cells if result.cell.cell_id == STORY_DEAD[0])
    assert [result.cell.index for result in cells_before(dead, run.cells)] == [10, 11, 12]
    slow = run.cells[11].records
    slow[:] = [replace(record, duration_s=1000.0) for record in slow]
    assert [result.cell.index for result in cells_before(dead, run.cells)] == [12], (
        "what would take too long is left out"
    )


@pytest.mark.parametrize(
    ("rung", "again", "answer"),
    [
        (Rung.ALONE, failed(CAUGHT), Answer.SAME),
        (Rung.ALONE, failed(ILLEGAL), Answer.OTHERWISE),
        (Rung.ALONE, failed(CAUGHT, hazards=[Hazard("fill", "scratch", 8, PointerState.FREED)]), Answer.SAME),
        (Rung.ALONE, failed(None, Outcome.OK), Answer.PASSES),
        (Rung.BLOCKING, failed(ILLEGAL), Answer.SAME),
        (Rung.BLOCKING, failed(Crash(message="CUDA error: CUBLAS_STATUS_INTERNAL_ERROR")), Answer.SAME),
        (Rung.GRAPHS_OFF, failed(Crash(exception="ValueError"), Outcome.ERROR), Answer.OTHERWISE),
    ],
)
def test_a_rerun_is_compared_as_closely_as_its_evidence_allows(rung: Rung, again: CellRecord, answer: Answer):
    assert read_rerun(rung, signature_of(failed(CAUGHT)), again).answer == answer


def test_what_fails_otherwise_at_the_same_line_is_told_by_what_it_says():
    def raised(message: str, stage: Stage) -> CellRecord:
        crash = Crash("ValueError", message, [Frame("/u/a.py", 3, "run")])
        return failed(crash, Outcome.ERROR, stage, reason=f"ValueError: {message} (a.py:3)")

    before = signature_of(raised("no room", Stage.CHECK))
    assert (
        read_rerun(Rung.ALONE, before, raised("no time", Stage.CHECK)).detail
        == "in check: ValueError: no time (a.py:3)"
    )
    assert read_rerun(Rung.ALONE, before, raised("no room", Stage.WARMUP)).detail.startswith("in warmup: ")


def test_the_audit_blames_the_kernel_that_was_caught_if_it_holds_a_stale_address():
    reason = "a CUDA graph holds a stale address: fill (topk_rows.py:120): scratch = …"
    again = failed(None, Outcome.INVALID, reason=reason, hazards=[hazard("fill"), hazard("_radix_kernel")])
    told = read_audit(failed(CAUGHT), again)
    assert told.answer == Answer.STALE
    assert told.blame is not None
    assert (told.blame.kernel, told.blame.line) == ("_radix_kernel", 120)
    assert told.blame.basis.startswith("audit: its scratch points to ")
    other = read_audit(failed(ILLEGAL), again)
    assert other.blame is not None
    assert other.blame.kernel == "fill"


@pytest.mark.parametrize(
    ("again", "answer"),
    [
        (
            failed(None, Outcome.OK, Stage.DONE, details={"graph_pointers": "1 graph, 9 nodes, none stale"}),
            Answer.NOTHING,
        ),
        (failed(None, Outcome.OK, Stage.DONE), Answer.NOT_APPLICABLE),
        (failed(CAUGHT), Answer.NOTHING),
        (failed(None, Outcome.OK, details={"graph_pointers": "not checked: no cuda-bindings"}), Answer.NONE),
    ],
)
def test_an_audit_that_finds_nothing_is_told_from_one_that_could_not_look(again: CellRecord, answer: Answer):
    assert read_audit(failed(CAUGHT), again).answer == answer


def test_a_sanitizers_finding_counts_however_the_rerun_ended_and_its_silence_only_if_it_worked():
    report = parse_sanitizer((LOGS / "wild_eager.memcheck").read_text())
    told = read_sanitizer(Rung.MEMCHECK, failed(None, Outcome.TIMEOUT), report)
    assert told.answer == Answer.INVALID_ACCESS
    assert told.blame is not None
    assert told.blame.basis.startswith("memcheck: Invalid __global__ write of size 16 bytes, is out of bounds")
    assert "launched at faults.py:35 in <module>" in told.detail
    silent = parse_sanitizer("========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors\n")
    assert read_sanitizer(Rung.MEMCHECK, failed(None, Outcome.OK), silent).answer == Answer.NOTHING
    assert read_sanitizer(Rung.MEMCHECK, failed(None, Outcome.TIMEOUT), silent).answer == Answer.NONE
    assert read_sanitizer(Rung.MEMCHECK, failed(None, Outcome.OK), None).answer == Answer.NONE
    broken = parse_sanitizer("========= Internal Sanitizer Error: a launch was not tracked.\n")
    assert read_sanitizer(Rung.MEMCHECK, failed(None, Outcome.OK), broken).answer == Answer.NONE


def test_who_asserts_or_reads_what_was_never_written_is_not_blamed():
    report = parse_sanitizer((LOGS / "index_assert.memcheck").read_text())
    assert read_sanitizer(Rung.MEMCHECK, failed(ILLEGAL), report).blame is None
    report = parse_sanitizer(
        "========= Uninitialized __global__ memory read of size 4 bytes\n=========     at f()+0x1 in f.cu:3\n"
    )
    told = read_sanitizer(Rung.INITCHECK, failed(ILLEGAL), report)
    assert (told.answer, told.blame) == (Answer.UNINITIALISED, None)


def diagnosis(tmp_path: Path, *answers: tuple[Rung, Answer], crash: Crash = CAUGHT) -> Diagnosis | None:
    """Of the story's three cells, after these answers about one of them."""
    path = story(tmp_path, crash=crash)
    for rung, answer in answers:
        append_verdict(path, Verdict(STORY_DEAD[0], rung.value, answer.value, "some detail"))
    (row,) = triage_run(load_run(path)).rows
    return row.diagnosis


FAILS = (Rung.ALONE, Answer.SAME)
RULE = "parallel = TEP ∧ gvr = false ∧ concurrency ≥ 8"


def test_without_answers_there_is_no_diagnosis(tmp_path: Path):
    assert diagnosis(tmp_path) is None


def test_a_stale_pointer_is_told_with_its_kernel_its_basis_and_the_rule(tmp_path: Path):
    path = story(tmp_path, crash=CAUGHT)
    blame = {"kernel": "_radix_kernel", "file": "topk_rows.py", "line": 120}
    basis = "audit: its scratch points to memory that was given back"
    say(
        path,
        {"cell_id": STORY_DEAD[1], "rung": "audit", "verdict": "stale pointer", "culprit": {**blame, "basis": basis}},
    )
    (row,) = triage_run(load_run(path)).rows
    assert row.diagnosis is not None
    assert row.diagnosis.text == (
        "stale pointer: _radix_kernel (topk_rows.py:120): its scratch points to memory that was given back (audit); "
        + RULE
    )


@pytest.mark.parametrize(
    ("answers", "basis", "words"),
    [
        ([FAILS, (Rung.BLOCKING, Answer.SAME), (Rung.GRAPHS_OFF, Answer.PASSES)], "contrast", "only when replayed"),
        ([FAILS, (Rung.BLOCKING, Answer.PASSES)], "contrast", "a matter of order"),
        ([(Rung.ALONE, Answer.PASSES), (Rung.AFTER_OTHERS, Answer.SAME)], "contrast", "needs the cells before it"),
        ([(Rung.ALONE, Answer.PASSES), (Rung.AFTER_OTHERS, Answer.PASSES)], "rerun", "passed 1 of 1 times alone"),
        ([FAILS, FAILS, (Rung.ALONE, Answer.PASSES)], "rerun", "passed 1 of 3 times alone"),
        ([FAILS, (Rung.INITCHECK, Answer.UNINITIALISED)], "initcheck", "nobody has written"),
        ([FAILS, (Rung.BLOCKING, Answer.SAME), (Rung.GRAPHS_OFF, Answer.SAME)], "blocking", "not whose data"),
        ([FAILS, (Rung.MEMCHECK, Answer.DEVICE_ASSERT)], "memcheck", "(topk_rows.py:146): some detail (memcheck)"),
        ([FAILS, (Rung.MEMCHECK, Answer.NOTHING)], "", "who did it is not known; memcheck found nothing"),
    ],
)
def test_each_contrast_is_told_with_its_basis(tmp_path: Path, answers, basis: str, words: str):
    found = diagnosis(tmp_path, *answers)
    assert found is not None
    assert (found.basis, words in found.text, RULE in found.text) == (basis, True, True), found.text


def test_what_is_not_known_comes_with_what_can_be_tried(tmp_path: Path):
    found = diagnosis(tmp_path, FAILS, (Rung.MEMCHECK, Answer.NOTHING), (Rung.AUDIT, Answer.NOTHING))
    assert found is not None
    assert found.text.endswith("next: compare cell_013_C008_TEP_GVRF with cell_012_C008_TEP_GVRT (gvr false → true)")
    path = story(tmp_path, "without-tools", crash=CAUGHT)
    append_verdict(path, Verdict(STORY_DEAD[0], "alone", Answer.SAME.value))
    missing = "no cuda-bindings here: pip install 'gpubench[audit]'"
    append_verdict(path, Verdict(STORY_DEAD[0], "audit", Answer.NOT_APPLICABLE.value, missing))
    (row,) = triage_run(load_run(path)).rows
    assert row.diagnosis is not None
    assert "next: pip install 'gpubench[audit]', and escalate again, for audit" in row.diagnosis.text


@given(st.lists(st.sampled_from(list(product(Rung, Answer))), max_size=8))
def test_whatever_was_answered_in_whatever_order_comes_to_a_line(tmp_path_factory, answers):
    found = diagnosis(tmp_path_factory.mktemp("any"), *answers)
    assert (found is None) == (not answers)
    if found is not None:
        assert "\n" not in found.text
        assert found.basis or "not known" in found.text


def test_one_cell_of_each_signature_is_chosen_or_all_or_the_one_that_is_named(tmp_path: Path):
    found = triage_run(load_run(story(tmp_path)))

    def chosen(cell: str, *, every: bool) -> list[str]:
        return [result.cell.cell_id for result in choose_cells(found, cell=cell, every=every)]

    assert chosen("", every=False) == [STORY_DEAD[0]]
    assert chosen("", every=True) == list(STORY_DEAD)
    assert chosen("17", every=False) == [STORY_DEAD[1]]


def test_answers_are_added_to_whatever_a_crash_has_left(tmp_path: Path):
    (tmp_path / VERDICTS).write_bytes(b'{"cell_id": "cell_0", "rung": "alo')
    verdict = Verdict("cell_0", Rung.ALONE.value, Answer.SAME.value, "ä 💥")
    append_verdict(tmp_path, verdict)
    append_verdict(tmp_path, verdict)
    read = read_verdicts(tmp_path)
    assert read.found == [verdict, verdict]
    assert "1 line" in read.note


def test_every_class_that_a_rung_is_for_is_one():
    from gpubench.run import rungs

    assert set(rungs._EXTRA) <= set(CLASSES)
    assert set(SANITIZER_RUNGS) >= {rung for extra in rungs._EXTRA.values() for rung in extra}


def test_the_table_tells_an_answer_once_and_what_does_not_apply_together(tmp_path: Path):
    path = story(tmp_path)
    for cell in STORY_DEAD[:2]:
        append_verdict(path, Verdict(cell, "alone", Answer.SAME.value))
        for rung in (Rung.MEMCHECK, Rung.AUDIT):
            append_verdict(path, Verdict(cell, rung.value, Answer.NOT_APPLICABLE.value, "the cell ran on a CPU"))
    (row,) = show(triage_run(load_run(path))).rows
    assert row.verdicts == (
        "alone: fails the same, 2 times",
        "memcheck, audit: not applicable (the cell ran on a CPU)",
    )
    assert row.diagnosis.startswith("illegal address, surfaced at fp8_gemm.py:88 in pack_tensor_map: who did it is not")

"""The command workload, with real processes: values arrive exactly, metrics are read or their absence is named."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.errors import ArgumentError, CommandFailed
from gpubench.registry import OwnMeasurement, get_workload
from gpubench.workloads import load_builtin
from gpubench.workloads.command.template import fill_arguments, fill_shell_line

load_builtin()
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=30)


def run(command, artifacts=None, **arguments):
    """The step's measurements by metric."""
    workload = get_workload("command")
    inputs = workload.make(command=command, **arguments)
    step = workload.backends["shell"].setup(**inputs, artifacts=artifacts)
    return {taken.metric: taken for taken in step()}


def python(source):
    """A command that runs this program; its braces are no placeholders."""
    text = textwrap.dedent(source).replace("{", "{{").replace("}", "}}")
    return [sys.executable, "-c", text]


# What a value goes through on its way into the command


@given(values=st.lists(TEXT, min_size=1, max_size=3))
def test_any_string_reaches_a_program_as_one_word_without_a_shell(values):
    named = {f"v{number}": value for number, value in enumerate(values)}
    line = "program " + " ".join(f"--{name}={{{name}}}" for name in named)
    assert fill_arguments(line, named) == ["program", *(f"--{name}={value}" for name, value in named.items())]


@given(values=st.lists(TEXT, min_size=5, max_size=5))
def test_any_string_survives_the_shell_unchanged(values):
    named = dict(zip("abcde", values, strict=True))
    line = "# a comment's quote\nprintf '%s\\0' {a} x{b}y \"$HOME\" \"$(printf %s b)\" $(: {c}) --flag={d}{e} ;# b's"
    out = subprocess.run(["/bin/sh", "-c", fill_shell_line(line, named)], capture_output=True, check=True).stdout
    a, b, _, d, e = (value.encode() for value in values)
    first, second, _home, _substituted, flag, _end = out.split(b"\0")
    assert (first, second, flag) == (a, b"x" + b + b"y", b"--flag=" + d + e)


@given(line=st.text(st.sampled_from("ab '\"`\\#$(){}<>;|&\n\t"), max_size=40))
def test_a_shell_line_without_placeholders_is_left_alone_but_for_doubled_braces(line):
    escaped = line.replace("{", "{{").replace("}", "}}")
    try:
        assert fill_shell_line(escaped, {}) == line
    except ArgumentError as error:
        assert "close every quote" in str(error)


@pytest.mark.parametrize(
    "line",
    [
        'echo "{x}"',
        "echo '{x}'",
        "echo `echo {x}`",
        r"echo \{x}",
        "echo a;#{x}",
        "cat <<END\n{x}\nEND",
        'echo "{x}',
        "# don't {x}",
    ],
)
def test_a_placeholder_where_quoting_means_something_else_is_refused(line):
    with pytest.raises(ArgumentError, match=r"inside|quoted safely"):
        fill_shell_line(line, {"x": "$(touch /tmp/never)"})


def test_values_are_written_as_yaml_writes_them():
    values = {"flag": True, "none": None, "rate": 0.5, "sizes": [1, 2], "tp-size": 8}
    assert fill_arguments("{flag} {none} {rate} {sizes} {tp-size}", values) == ["true", "null", "0.5", "[1, 2]", "8"]


def test_doubled_braces_are_braces():
    assert fill_arguments("""awk '{{print ${n}}}' '{{"a": {{}}}}'""", {"n": 2}) == ["awk", "{print $2}", '{"a": {}}']


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("run {bach}", "did you mean {batch}"),
        ("run {bach}", "known: batch, isl"),
        ("run ${HOME}", "write {{HOME}}"),
        ("run {", "lone '{'"),
        ("run {batch:03d}", "lone '{'"),
        ("run }", "lone '}'"),
        ("run 'open", "No closing quotation"),
        ("", "empty"),
        ([], "empty"),
    ],
)
def test_a_template_that_cannot_be_meant_is_explained(command, complaint):
    with pytest.raises(ArgumentError) as caught:
        fill_arguments(command, {"batch": 1, "isl": 2})
    assert complaint in str(caught.value)


def test_a_nul_byte_is_refused():
    with pytest.raises(ArgumentError, match="NUL"):
        fill_arguments("run {x}", {"x": "a\0b"})


def test_a_list_of_words_has_no_shell():
    with pytest.raises(ArgumentError, match="drop shell: true"):
        run(["echo", "a"], shell=True)


def test_an_axis_cannot_take_the_place_of_the_artifacts_folder():
    with pytest.raises(ArgumentError, match="artifacts"):
        get_workload("command").make(command="echo {artifacts}", artifacts="here")


# What comes out of it


def test_a_command_need_not_report_anything():
    assert run("true") == {}


def test_metrics_come_from_json_on_the_last_line_whatever_was_logged_before():
    source = """
        import json
        print("loading {model} ...")
        print(json.dumps({"results": [{"tok_s": 12.5}]}))
    """
    taken = run(python(source), metrics={"tok_s": {"json": "results.0.tok_s", "unit": "1/s"}})
    assert (taken["tok_s"].value, taken["tok_s"].unit, taken["tok_s"].higher_is_better) == (12.5, "1/s", None)


@pytest.mark.parametrize(
    ("name", "better"), [("ttft.p99", "ttft_p99"), ("busy@nsys", "busy_at_nsys"), ("", "one word")]
)
def test_a_metric_is_not_named_as_tables_name_parts_of_others(name, better):
    with pytest.raises(ArgumentError, match=f"^metrics: '{name}' can't name a metric: .* call it {better}$"):
        run("echo 7", metrics={name: {"pattern": "([0-9]+)"}})
    with pytest.raises(ValueError, match="can't name a metric"):
        OwnMeasurement(name, "s", 1.0)


def test_a_metric_may_say_which_way_is_better():
    taken = run("echo 7", metrics={"misses": {"pattern": "([0-9]+)", "unit": "1/s", "higher_is_better": False}})
    assert taken["misses"].higher_is_better is False


def test_a_pattern_takes_the_last_match_and_reads_stderr_if_asked():
    source = "import sys; print('loss: 9\\nloss: 4e-1', file=sys.stderr)"
    taken = run(python(source), metrics={"loss": {"pattern": r"^loss: (\S+)$", "file": "stderr"}})
    assert taken["loss"].value == 0.4


def test_a_file_in_the_cells_own_folder_is_read_again_after_every_run(tmp_path):
    counter = tmp_path / "count"
    counter.write_text("0")
    source = """
        import json, pathlib, sys
        counter = pathlib.Path(sys.argv[2])
        counter.write_text(str(int(counter.read_text()) + 1))
        pathlib.Path(sys.argv[1]).write_text(json.dumps({"n": int(counter.read_text())}))
    """
    metrics = {"n": {"json": "n", "file": "{artifacts}/out.json"}}
    workload = get_workload("command")
    inputs = workload.make([*python(source), "{artifacts}/out.json", "{count}"], metrics=metrics, count=str(counter))
    step = workload.backends["shell"].setup(**inputs, artifacts=str(tmp_path))
    assert [step()[-1].value for _ in range(3)] == [1, 2, 3]


def test_a_file_that_this_run_did_not_write_is_not_read(tmp_path):
    (tmp_path / "out.json").write_text('{"n": 1}')
    with pytest.raises(CommandFailed, match="older than this run"):
        run("true", str(tmp_path), metrics={"n": {"json": "n", "file": "{artifacts}/out.json"}})


def test_output_goes_to_the_cells_logs_too(capfd):
    run("sh -c 'echo for the log; echo and this >&2'")
    logged = capfd.readouterr()
    assert (logged.out, logged.err) == ("for the log\n", "and this\n")


def test_a_megabyte_of_output_on_both_streams_blocks_nothing(capfd):
    source = (
        "import sys\nfor _ in range(1000): sys.stdout.write('o' * 1024); sys.stderr.write('e' * 1024)\nprint('\\nn: 7')"
    )
    assert run(python(source), metrics={"n": {"pattern": r"^n: (\d+)"}})["n"].value == 7
    assert len(capfd.readouterr().err) == 1000 * 1024


@pytest.mark.parametrize(
    ("printed", "source", "complaint"),
    [
        ('{"a": {"b": 1}}', {"json": "a.c"}, "no 'c' at a; there is keys b"),
        ('{"a": [1, 2]}', {"json": "a.2"}, "no '2' at a; there is a list of 2"),
        ('{"a": 3}', {"json": "a.b"}, "no 'b' at a; there is 3"),
        ("plain", {"json": "a"}, "neither stdout nor its last line is JSON; the last line: 'plain'"),
        ('{"a": NaN}', {"json": "a"}, "gives nan; wanted a finite number"),
        ('{"a": true}', {"json": "a"}, "gives True"),
        ('{"a": "1"}', {"json": "a"}, "gives '1'"),
        ("t: 3", {"pattern": r"x: (\d+)"}, "nothing in stdout matches 'x: (\\\\d+)'; it ends with 't: 3'"),
        ("t: fast", {"pattern": r"t: (\w+)"}, "caught 'fast' in stdout; wanted a number"),
        ("t: 1,234", {"pattern": r"t: (.+)"}, "caught '1,234'"),
        ("t: inf", {"pattern": r"t: (\w+)"}, "gives inf"),
        ("", {"json": "a", "file": "never.json"}, "can't read never.json"),
    ],
)
def test_a_metric_that_is_not_there_is_named_with_what_was_found(printed, source, complaint):
    with pytest.raises(CommandFailed) as caught:
        run(["printf", "%s", "{printed}"], printed=printed, metrics={"m": source})
    assert "metric m" in str(caught.value)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("metrics", "complaint"),
    [
        ({"m": {}}, "either json"),
        ({"m": {"json": "a", "pattern": "(a)"}}, "either json"),
        ({"m": {"pattern": "a"}}, "0 groups"),
        ({"m": {"pattern": "(a)(b)"}}, "2 groups"),
        ({"m": {"pattern": "("}}, "not a regular expression"),
        ({"m": {"jsn": "a"}}, "metrics.m.jsn"),
        ({"m": "a.b"}, "metrics.m"),
        ({"step_time": {"json": "a"}}, "wall time"),
    ],
)
def test_a_metric_that_cannot_be_meant_is_refused_before_the_command_runs(metrics, complaint):
    with pytest.raises(ArgumentError) as caught:
        get_workload("command").make(command="false", metrics=metrics)
    assert complaint in str(caught.value)


# When it goes wrong


def test_another_exit_status_than_0_fails_with_the_last_words():
    with pytest.raises(CommandFailed) as caught:
        run(python("raise RuntimeError('no such model')"))
    assert caught.value.exit_status == 1
    assert "exit status 1: RuntimeError: no such model" in str(caught.value)
    assert "Traceback" in caught.value.stderr_tail


@pytest.mark.parametrize("shell", [False, True])
def test_a_signal_is_named(shell):
    command = shlex.join([sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"])
    with pytest.raises(CommandFailed, match="killed by SIGSEGV") as caught:
        run(f"{command}; exit $?" if shell else command, shell=shell)
    assert caught.value.signal == signal.SIGSEGV.name


def test_a_program_that_does_not_exist_is_named():
    with pytest.raises(CommandFailed, match="can't run 'no-such-program'"):
        run("no-such-program --help")


def test_the_command_stays_in_the_process_group_of_the_worker():
    taken = run(python("import os; print('group:', os.getpgrp())"), metrics={"g": {"pattern": r"group: (\d+)"}})
    assert taken["g"].value == os.getpgrp()


def test_a_command_that_leaves_a_process_running_behind_it_fails():
    with pytest.raises(CommandFailed, match="a process that it left behind"):
        run("sleep 3 & echo started", shell=True)

"""Whatever a user gets wrong is answered with the place, the value and the way out: every message, word for word."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gpubench.catalogue import Catalogue
from gpubench.errors import ConfigError
from gpubench.sweep import expand, load_sweep

HEAD = """\
workload: mla_decode
axes:
  backend: [torch, triton]
  batch: [1, 8]
  isl: [512, 2048]
params: {model: tiny}
"""
KEYS = (
    "name, workload, axes, params, zip, exclude, include, plugins, measure, check, timeout_s, order, isolation, "
    "triage, overlay, pareto, against"
)
MEASURE = (
    "timer, trials, warmup_time_s, min_samples, max_samples, target_rel_ci, max_time_s, launch, l2, seed, "
    "pass_environment"
)
NAMES = "backend, model, batch, isl, tp, dtype, scale, window, causal, lengths, block_v"
HERE = "<here>"
MANY = ", ".join(map(str, range(400)))

WRITTEN = [
    pytest.param(
        HEAD + "against: {batch: 1, backend: torch}\n",
        "sweep.yaml:7: against: 2 axes; want one axis and its value",
        id="against two axes",
    ),
    pytest.param("", "sweep.yaml: the file is empty; a sweep has at least a workload and axes", id="empty file"),
    pytest.param(
        "# nothing yet\n",
        "sweep.yaml: the file is empty; a sweep has at least a workload and axes",
        id="only a comment",
    ),
    pytest.param(
        "- workload\n- axes\n",
        "sweep.yaml:1: want a mapping with workload and axes, got ['workload', 'axes']",
        id="not a mapping",
    ),
    pytest.param(
        "axes:\n\tbatch: [1]\n",
        "sweep.yaml:2: not YAML: found character that cannot start any token; indent with spaces, not tabs",
        id="tab as indent",
    ),
    pytest.param(
        "axes:\n  batch: [1, 2\nname: x\n",
        "sweep.yaml:3: not YAML: did not find expected ',' or ']', while parsing a flow sequence that starts on line 2",
        id="unclosed list",
    ),
    pytest.param(
        "name: 'x", "sweep.yaml:1: not YAML: found unexpected end of stream; a quote isn't closed", id="unclosed quote"
    ),
    pytest.param(
        "name: a: b\n",
        "sweep.yaml:1: not YAML: mapping values are not allowed in this context; "
        "a value with a colon needs quotes, and keys of a mapping the same indent",
        id="colon in a value",
    ),
    pytest.param(
        "name: @x\n",
        "sweep.yaml:1: not YAML: found character that cannot start any token; a value that starts with @ needs quotes",
        id="value with @",
    ),
    pytest.param(
        "axes:\n    batch: 1\n  isl: 2\n",
        "sweep.yaml:3: not YAML: did not find expected key, while parsing a block mapping that starts on line 1; "
        "look at the indent here and above",
        id="uneven indent",
    ),
    pytest.param(
        "name: x\nworkload: \x01\n",
        "sweep.yaml:2: not YAML: control characters are not allowed",
        id="control character",
    ),
    pytest.param(
        HEAD + "measure: {trials: 1}\nname: x\nmeasure: {trials: 2}\n",
        "sweep.yaml:9: the key 'measure' is given twice, first on line 7; keep one",
        id="key twice",
    ),
    pytest.param(
        "axes:\n  batch: [1]\n  batch: [2]\n",
        "sweep.yaml:3: axes: the key 'batch' is given twice, first on line 2; keep one",
        id="key twice inside",
    ),
    pytest.param(
        "axes: {1: [2]}\n",
        "sweep.yaml:1: axes: a key must be a string, got 1; put it in quotes if it is one",
        id="a number for a key",
    ),
    pytest.param(
        "? [a, b]\n: 1\n",
        "sweep.yaml:1: a key must be a string, got a list or mapping; put it in quotes if it is one",
        id="a list for a key",
    ),
    pytest.param(
        "axes:\n  <<: [1]\n",
        "sweep.yaml:2: axes: << merges a mapping or a list of mappings, as in <<: *base",
        id="merging a list of numbers",
    ),
    pytest.param(
        "name: !!python/name:os.system\n",
        "sweep.yaml:1: name: the tag !!python/name:os.system isn't allowed; a sweep holds plain values only",
        id="a python tag",
    ),
    pytest.param(
        "axes: !mine {batch: 1}\n",
        "sweep.yaml:1: axes: the tag !mine isn't allowed; a sweep holds plain values only",
        id="a tag of one's own",
    ),
    pytest.param("name: !!int x\n", "sweep.yaml:1: name: 'x' doesn't fit its tag !!int", id="a tag that doesn't fit"),
    pytest.param(
        "name: x\n---\nname: y\n",
        "sweep.yaml:2: a second document starts here; a sweep is one document",
        id="two documents",
    ),
    pytest.param(
        "name: *x\n",
        "sweep.yaml:1: name: the alias *x has no anchor; write &x before it, or quote the string",
        id="alias without anchor",
    ),
    pytest.param(
        "axes: &x\n  batch: *x\n",
        "sweep.yaml:2: axes.batch: the alias *x lies inside what it stands for",
        id="alias inside itself",
    ),
    pytest.param(
        "params: {seed: 99999999999999999999}\n",
        "sweep.yaml:1: params.seed: '99999999999999999999' is an integer of more than 64 bits",
        id="number too large",
    ),
    pytest.param(
        "params: {scale: 1e999}\n",
        "sweep.yaml:1: params.scale: '1e999' is a number beyond what a double holds; write .inf if infinity is meant",
        id="float too large",
    ),
    pytest.param(
        'name: "\\ud800"\n',
        "sweep.yaml:1: not YAML: found invalid Unicode character escape code",
        id="half a surrogate",
    ),
    pytest.param(
        "axes: {batch: [1]}\n",
        "sweep.yaml:1: missing key 'workload'; every sweep names one (gpubench list shows what there is)",
        id="no workload",
    ),
    pytest.param(
        HEAD + "timeout: 3\n",
        f"sweep.yaml:7: timeout: unknown key 'timeout'; did you mean 'timeout_s'? known: {KEYS}",
        id="unknown key",
    ),
    pytest.param(
        HEAD + "measure:\n  trails: 1\n",
        f"sweep.yaml:8: measure.trails: unknown key 'trails' of measure; did you mean 'trials'? known: {MEASURE}",
        id="unknown key of a section",
    ),
    pytest.param(
        HEAD + "triage: {zzz: 1}\n",
        "sweep.yaml:7: triage.zzz: unknown key 'zzz' of triage; known: coredump",
        id="unknown key unlike any",
    ),
    pytest.param(
        HEAD + "measure: {trials: '3'}\n",
        "sweep.yaml:7: measure.trials: got '3'; want a whole number",
        id="string for a number",
    ),
    pytest.param(
        HEAD + "measure: {trials: true}\n",
        "sweep.yaml:7: measure.trials: got true; want a whole number",
        id="bool for a number",
    ),
    pytest.param(
        HEAD + "measure: {trials: 1.5}\n",
        "sweep.yaml:7: measure.trials: got 1.5; want a whole number",
        id="fraction of a trial",
    ),
    pytest.param(HEAD + "measure: {trials: 0}\n", "sweep.yaml:7: measure.trials: got 0; want at least 1", id="too few"),
    pytest.param(
        HEAD + "measure: {trials: 1001}\n", "sweep.yaml:7: measure.trials: got 1001; want at most 1000", id="too many"
    ),
    pytest.param(
        HEAD + "measure: {max_time_s: 0}\n",
        "sweep.yaml:7: measure.max_time_s: got 0; want more than 0",
        id="not positive",
    ),
    pytest.param(
        HEAD + "measure: {target_rel_ci: 1}\n",
        "sweep.yaml:7: measure.target_rel_ci: got 1; want less than 1",
        id="not below one",
    ),
    pytest.param(
        HEAD + "measure: {timer: cuda_events}\n",
        "sweep.yaml:7: measure.timer: got 'cuda_events'; "
        "did you mean 'cuda_event'? known: auto, nsys, cupti, cuda_event, wall",
        id="unknown choice",
    ),
    pytest.param(
        HEAD + "order: [cells]\n",
        "sweep.yaml:7: order: got ['cells']; did you mean 'cells'? known: cells, interleaved",
        id="list for a choice",
    ),
    pytest.param(
        HEAD + "measure: {max_time_s: .inf}\n",
        "sweep.yaml:7: measure.max_time_s: got inf; want a finite number",
        id="endless time",
    ),
    pytest.param(
        HEAD + "measure: {min_samples: 300}\n",
        "sweep.yaml:7: measure.min_samples: got 300, more than measure.max_samples, which is 200",
        id="more samples at least than at most",
    ),
    pytest.param(HEAD + "timeout_s: 0\n", "sweep.yaml:7: timeout_s: got 0; want more than 0", id="no time at all"),
    pytest.param(
        HEAD + "timeout_s: {setup: -1}\n",
        "sweep.yaml:7: timeout_s.setup: got -1; want more than 0",
        id="no time to set up",
    ),
    pytest.param(HEAD + "triage: true\n", "sweep.yaml:7: triage: got true; want a mapping", id="scalar for a section"),
    pytest.param(
        HEAD + "triage: {coredump: 1}\n",
        "sweep.yaml:7: triage.coredump: got 1; want true or false",
        id="not true or false",
    ),
    pytest.param(
        HEAD + "name: 3\n",
        "sweep.yaml:7: name: got 3; want a string (in quotes, if it looks like something else)",
        id="name isn't a string",
    ),
    pytest.param(HEAD + "name: ''\n", "sweep.yaml:7: name: got ''; want at least one character", id="empty name"),
    pytest.param(
        "workload: mla_decode\naxes: [batch]\n",
        "sweep.yaml:2: axes: got ['batch']; want a mapping",
        id="axes isn't a mapping",
    ),
    pytest.param(
        "workload: mla_decode\naxes: {batch: []}\n",
        "sweep.yaml:2: axes.batch: an empty list has no values to sweep; list at least one",
        id="axis without values",
    ),
    pytest.param(
        "workload: mla_decode\naxes:\n  batch:\n",
        "sweep.yaml:3: axes.batch: no values; list some, or write [null] for the value null",
        id="axis left empty",
    ),
    pytest.param(
        "workload: mla_decode\naxes: {batch: [[1]]}\n",
        "sweep.yaml:2: axes.batch[0]: got [1]; want a number, a string, true, false or null (lists and mappings "
        "go under params)",
        id="list as a value",
    ),
    pytest.param(
        "workload: mla_decode\naxes: {scale: [.nan]}\n",
        "sweep.yaml:2: axes.scale[0]: got .nan, which equals nothing, not even itself; it can't be swept",
        id="nan as a value",
    ),
    pytest.param(
        "workload: command\naxes: {a b: 1}\n",
        "sweep.yaml:2: axes.a b: 'a b' can't name an axis; use letters, digits and _, a letter first",
        id="axis name with a space",
    ),
    pytest.param(
        "workload: command\naxes: {cell: 1}\n",
        "sweep.yaml:2: axes.cell: an axis can't be called cell: --only cell=… asks for a cell by number",
        id="reserved axis name",
    ),
    pytest.param(
        "workload: mla_decode\naxes: {tp: [1]}\nparams: {tp: 2}\n",
        "sweep.yaml:3: params.tp: tp is under axes too; keep it in one of them",
        id="axis is a param too",
    ),
    pytest.param(
        "workload: mla_decode\naxes: {tp: [1]}\nzip:\n- {tp: 2}\n",
        "sweep.yaml:4: zip[0].tp: tp is under axes too; keep it in one of them",
        id="zip is an axis too",
    ),
    pytest.param(
        "workload: mla_decode\nparams: {backend: [torch]}\n",
        "sweep.yaml:2: params.backend: a list of backends is an axis; move it under axes",
        id="backends under params",
    ),
    pytest.param(
        "workload: mla_decode\nzip:\n- {isl: 1, tp: 1}\n- {isl: 2}\n",
        "sweep.yaml:4: zip[1]: missing tp, which zip[0] has; rows of zip name the same axes",
        id="zip row lacks an axis",
    ),
    pytest.param(
        "workload: mla_decode\nzip:\n- {isl: 1}\n- {isl: 2, tp: 1}\n",
        "sweep.yaml:4: zip[1].tp: zip[0] has no tp; rows of zip name the same axes",
        id="zip row with one more",
    ),
    pytest.param(
        "workload: mla_decode\nzip: {isl: 1}\n", "sweep.yaml:2: zip: got {'isl': 1}; want a list", id="zip isn't a list"
    ),
    pytest.param(
        "workload: mla_decode\nzip: [{}]\n",
        "sweep.yaml:2: zip[0]: an empty mapping; name at least one axis and its value",
        id="empty zip row",
    ),
    pytest.param(
        HEAD + "exclude: {batch: 1}\n",
        "sweep.yaml:7: exclude: got {'batch': 1}; want a list",
        id="exclude isn't a list",
    ),
    pytest.param(
        HEAD + "exclude: [{}]\n",
        "sweep.yaml:7: exclude[0]: an empty mapping; name at least one axis and its value",
        id="empty exclude",
    ),
    pytest.param(
        HEAD + "exclude:\n- batch: 1\n- isl: []\n",
        "sweep.yaml:9: exclude[1].isl: an empty list matches nothing; list at least one value",
        id="exclude with an empty list",
    ),
    pytest.param(
        HEAD + "exclude: [{isl: '>many'}]\n",
        "sweep.yaml:7: exclude[0].isl: > compares numbers, got 'many'; for that very text write '==>many'",
        id="exclude compares a string",
    ),
    pytest.param(
        HEAD + "exclude: [{isl: {min: 1}}]\n",
        "sweep.yaml:7: exclude[0].isl: want a value, a comparison or a list of them, got {'min': 1}",
        id="exclude with a mapping",
    ),
    pytest.param(
        HEAD + "plugins:\n- kernels/mine.py\n",
        f"sweep.yaml:8: plugins[0]: no file 'kernels/mine.py' in {HERE}",
        id="plugin that isn't there",
    ),
    pytest.param(
        HEAD + "plugins: ['.']\n",
        "sweep.yaml:7: plugins[0]: '.' is no Python file; a plugin is a file that ends in .py, or a module's name",
        id="plugin is a folder",
    ),
    pytest.param(
        HEAD + "overlay: {cpu: 3}\n", "sweep.yaml:7: overlay.cpu: got 3; want a mapping", id="overlay isn't a mapping"
    ),
    pytest.param(
        HEAD + "overlay:\n  cpu:\n    measur: {trials: 1}\n",
        f"sweep.yaml:9: overlay.cpu.measur: unknown key 'measur'; did you mean 'measure'? known: {KEYS}",
        id="unknown key of an overlay",
    ),
    pytest.param(
        HEAD + "overlay: {cpu: {overlay: {gpu: {}}}}\n",
        "sweep.yaml:7: overlay.cpu.overlay: an overlay can't hold overlays",
        id="overlay in an overlay",
    ),
    pytest.param(
        HEAD + "overlay:\n  cpu: {params: {isl: 32}}\n",
        "sweep.yaml:8: overlay.cpu.params.isl: isl is under axes too; keep it in one of them",
        id="overlay contradicts the file",
    ),
    pytest.param(
        HEAD + "overlay: {cpu: {measure: {trials: 0}}}\n",
        "sweep.yaml:7: overlay.cpu.measure.trials: got 0; want at least 1",
        id="bad value in an overlay",
    ),
    pytest.param(
        HEAD + "order: cell\nmeasure: {trials: 0, tmier: wall}\nzzz: 1\n",
        "sweep.yaml:7: order: got 'cell'; did you mean 'cells'? known: cells, interleaved\n"
        "sweep.yaml:8: measure.trials: got 0; want at least 1\n"
        f"sweep.yaml:8: measure.tmier: unknown key 'tmier' of measure; did you mean 'timer'? known: {MEASURE}\n"
        f"sweep.yaml:9: zzz: unknown key 'zzz'; known: {KEYS}",
        id="several at once",
    ),
]

EXPANDED = [
    pytest.param(
        "workload: mla_decod\naxes: {batch: [1]}\n",
        "sweep.yaml:1: workload: unknown workload 'mla_decod'; "
        "did you mean 'mla_decode'? known: command, decode_step, mla_decode",
        id="unknown workload",
    ),
    pytest.param(
        HEAD.replace("triton]", "tritn]"),
        "sweep.yaml:3: axes.backend[1]: unknown backend 'tritn' of mla_decode; "
        "did you mean 'triton'? known: torch, triton",
        id="unknown backend",
    ),
    pytest.param(
        HEAD.replace("isl:", "ils:"),
        "sweep.yaml:2: axes: mla_decode needs isl; give a value under axes or params\n"
        f"sweep.yaml:5: axes.ils: unknown axis 'ils' of mla_decode; did you mean 'isl'? known: {NAMES}",
        id="unknown axis",
    ),
    pytest.param(
        HEAD + "zip: [{batc: 1}]\n",
        f"sweep.yaml:7: zip[0].batc: unknown axis 'batc' of mla_decode; did you mean 'batch'? known: {NAMES}",
        id="unknown param",
    ),
    pytest.param(
        HEAD.replace("{model: tiny", "{model: tiny, tpp: 1"),
        f"sweep.yaml:6: params.tpp: unknown param 'tpp' of mla_decode; did you mean 'tp'? known: {NAMES}",
        id="unknown param",
    ),
    pytest.param(
        HEAD.replace("tiny", "tinny"),
        "sweep.yaml:6: params.model: unknown model 'tinny' of mla_decode; "
        "did you mean 'tiny'? known: deepseek-v3, tiny",
        id="unknown choice",
    ),
    pytest.param(
        HEAD.replace("[1, 8]", "[1, eight]"),
        "sweep.yaml:4: axes.batch[1]: got 'eight'; batch of mla_decode takes a whole number",
        id="string for an int",
    ),
    pytest.param(
        HEAD.replace("[1, 8]", "[1, true]"),
        "sweep.yaml:4: axes.batch[1]: got true; batch of mla_decode takes a whole number",
        id="bool for an int",
    ),
    pytest.param(
        HEAD.replace("[1, 8]", "[1, 8.0]"),
        "sweep.yaml:4: axes.batch[1]: got 8.0; batch of mla_decode takes a whole number",
        id="float for an int",
    ),
    pytest.param(
        HEAD.replace("[1, 8]", "[1, null]"),
        "sweep.yaml:4: axes.batch[1]: got null; batch of mla_decode takes a whole number",
        id="null where none may be",
    ),
    pytest.param(
        HEAD.replace("tiny}", "tiny, causal: 1}"),
        "sweep.yaml:6: params.causal: got 1; causal of mla_decode takes true or false",
        id="int for a bool",
    ),
    pytest.param(
        HEAD.replace("tiny}", "tiny, lengths: 1}"),
        "sweep.yaml:6: params.lengths: got 1; lengths of mla_decode takes a list",
        id="scalar for a list",
    ),
    pytest.param(
        HEAD.replace("tiny}", "3}"),
        "sweep.yaml:6: params.model: unknown model 3 of mla_decode; known: deepseek-v3, tiny",
        id="number for a string",
    ),
    pytest.param(
        "workload: mla_decode\naxes: {batch: [1]}\n",
        "sweep.yaml:2: axes: mla_decode needs model, isl; give a value under axes or params",
        id="missing argument",
    ),
    pytest.param(
        "workload: mla_decode\n",
        "sweep.yaml:1: mla_decode needs model, batch, isl; give a value under axes or params",
        id="nothing at all",
    ),
    pytest.param(
        "workload: decode_step\naxes: {concurrency: [1]}\n",
        "sweep.yaml:2: axes: decode_step has no baseline, so name a backend under axes; known: eager, graph",
        id="no baseline",
    ),
    pytest.param(
        HEAD.replace("[1, 8]", "[1, 8, 1]"),
        "sweep.yaml:4: axes.batch[2]: batch=1 is there already, as axes.batch[0]; the same cells twice",
        id="value twice",
    ),
    pytest.param(
        HEAD.replace("  batch", "  scale: [1, 2, 1.0]\n  batch"),
        "sweep.yaml:4: axes.scale[2]: scale=1.0 is there already, as axes.scale[0]; the same cells twice",
        id="value twice once it is a float",
    ),
    pytest.param(
        "workload: mla_decode\nparams: {model: tiny, batch: 1}\nzip:\n- {isl: 1, tp: 1}\n- {tp: 1, isl: 1}\n",
        "sweep.yaml:5: zip[1]: tp=1 isl=1 is there already, as zip[0]; the same cells twice",
        id="zip row twice",
    ),
    pytest.param(
        HEAD.replace("[torch, triton]", "[torch]") + "zip: [{block_v: 16}]\n",
        "sweep.yaml:7: zip[0].block_v: block_v is an option of triton, which this sweep doesn't run",
        id="option of a backend that isn't run",
    ),
    pytest.param(
        HEAD + "exclude: [{bach: 1}]\n",
        "sweep.yaml:7: exclude[0].bach: unknown axis 'bach' of this sweep; "
        "did you mean 'batch'? known: model, backend, batch, isl",
        id="exclude of an unknown axis",
    ),
    pytest.param(
        HEAD + "exclude: [{backend: '>=3'}]\n",
        "sweep.yaml:7: exclude[0].backend: >= compares numbers, and backend has none; "
        "name its values instead: torch, triton",
        id="exclude that orders strings",
    ),
    pytest.param(
        HEAD + "exclude:\n- {batch: 1}\n- {batch: '>1'}\n",
        "sweep.yaml:7: exclude: no cell is left of 8: all are excluded",
        id="all excluded",
    ),
    pytest.param(
        "workload: mla_decode\nparams: {model: tiny, batch: 1, isl: 2}\ninclude: [{scale: .nan}]\n",
        "sweep.yaml:3: include[0].scale: got .nan, which equals nothing, not even itself; no cell can be told by it",
        id="nan in a row of include",
    ),
    pytest.param(
        HEAD + "include:\n- {batch: 1}\n",
        "sweep.yaml:8: include[0]: missing backend, isl, of which the grid has several values",
        id="include lacks axes",
    ),
    pytest.param(
        HEAD + "include:\n- {backend: torch, batch: 1, isl: 1, ls: 3}\n",
        f"sweep.yaml:8: include[0].ls: unknown axis 'ls' of mla_decode; known: {NAMES}",
        id="include with an unknown axis",
    ),
    pytest.param(
        HEAD + "include:\n- {backend: trch, batch: 1, isl: 1}\n",
        "sweep.yaml:8: include[0].backend: unknown backend 'trch' of mla_decode; "
        "did you mean 'torch'? known: torch, triton",
        id="include with an unknown backend",
    ),
    pytest.param(
        HEAD + "include:\n- {backend: torch, batch: [1], isl: 1}\n",
        "sweep.yaml:8: include[0].batch: got [1]; batch is an axis of the grid, so a row has one value of it",
        id="include with a list for an axis",
    ),
    pytest.param(
        HEAD + "include:\n- {backend: torch, batch: 1, isl: 1, block_v: 32}\n",
        "sweep.yaml:8: include[0].block_v: block_v is an option of triton, not of torch",
        id="include with a foreign option",
    ),
    pytest.param(
        HEAD + "include:\n- {backend: torch, batch: 2, isl: 512}\n- {backend: torch, batch: 8, isl: 512}\n",
        "sweep.yaml:9: include[1]: the cell cell_002_B008_ISL0512_torch once more; remove one of them",
        id="include of a cell that is there",
    ),
    pytest.param(
        HEAD + "include:\n- {backend: torch, batch: 2, isl: 512}\n- {isl: 512, backend: torch, batch: 2}\n",
        "sweep.yaml:9: include[1]: the cell cell_008_B002_ISL0512_torch once more; remove one of them",
        id="include twice",
    ),
    pytest.param(
        "workload: mla_decode\nparams: {model: tiny}\ninclude:\n- {batch: 1, isl: 1}\n- {batch: 1}\n",
        "sweep.yaml:5: include[1]: mla_decode needs isl; give a value under axes or params",
        id="include without what it needs",
    ),
    pytest.param(
        HEAD + "check: {against: tortch}\n",
        "sweep.yaml:7: check.against: unknown backend 'tortch' of mla_decode; "
        "did you mean 'torch'? known: auto, oracle, none, torch, triton",
        id="check against an unknown backend",
    ),
    pytest.param(
        HEAD + "pareto: {group: [backend, batches]}\n",
        "sweep.yaml:7: pareto.group[1]: unknown axis 'batches' of this sweep; "
        "did you mean 'batch'? known: backend, batch, isl, model",
        id="grouped by an unknown axis",
    ),
    pytest.param(
        HEAD + "against: {batches: 1}\n",
        "sweep.yaml:7: against.batches: unknown axis 'batches' of this sweep; "
        "did you mean 'batch'? known: backend, batch, isl, model",
        id="against an unknown axis",
    ),
    pytest.param(
        HEAD + "against: {batch: 2}\n",
        "sweep.yaml:7: against.batch: no cell has batch: 2; it is 1, 8",
        id="against a value that no cell has",
    ),
    pytest.param(
        f"workload: command\nparams: {{run: x}}\naxes:\n  a: [{MANY}]\n  b: [{MANY}]\nzip: [{{c: 1}}, {{c: 2}}]\n",
        "sweep.yaml:3: axes: 320,000 cells (400 of a × 400 of b × 2 of zip) are more than 100,000; sweep fewer values",
        id="too many cells",
    ),
    pytest.param(
        HEAD.replace("torch,", "torh,").replace("[1, 8]", "[x]") + "check: {against: me}\n",
        "sweep.yaml:3: axes.backend[0]: unknown backend 'torh' of mla_decode; "
        "did you mean 'torch'? known: torch, triton\n"
        "sweep.yaml:4: axes.batch[0]: got 'x'; batch of mla_decode takes a whole number\n"
        "sweep.yaml:7: check.against: unknown backend 'me' of mla_decode; known: auto, oracle, none, torch, triton",
        id="several at once",
    ),
]

FLAGS = [
    pytest.param(
        "measure.trials", "--set measure.trials: want key=value, as in --set measure.trials=1", id="no equals sign"
    ),
    pytest.param("=1", "--set =1: want key=value, as in --set measure.trials=1", id="no key"),
    pytest.param(
        "measure.trails=1",
        "--set measure.trails=1: measure.trails: unknown key 'trails' of measure; "
        f"did you mean 'trials'? known: {MEASURE}",
        id="unknown key",
    ),
    pytest.param(
        "mesure.trials=1",
        f"--set mesure.trials=1: mesure: unknown key 'mesure'; did you mean 'measure'? known: {KEYS}",
        id="unknown section",
    ),
    pytest.param(
        "ils=1",
        f"--set ils=1: params.ils: unknown param 'ils' of mla_decode; did you mean 'isl'? known: {NAMES}",
        id="unknown bare key",
    ),
    pytest.param(
        "timeout=1",
        "--set timeout=1: unknown key 'timeout'; did you mean 'timeout_s'? known: backend, batch, isl, model, against, "
        "axes, check, exclude, include, isolation, measure, name, order, overlay, params, pareto, plugins, timeout_s, "
        "triage, workload, zip; to add an argument write params.timeout=…",
        id="mistyped section",
    ),
    pytest.param(
        "lanes=1",
        f"--set lanes=1: params.lanes: unknown param 'lanes' of mla_decode; known: {NAMES}",
        id="argument that nothing takes",
    ),
    pytest.param(
        "batch=[1",
        "--set batch=[1: not YAML: did not find expected ',' or ']', while parsing a flow sequence that starts "
        "on line 1",
        id="value isn't YAML",
    ),
    pytest.param(
        "measure.trials=many",
        "--set measure.trials=many: measure.trials: got 'many'; want a whole number",
        id="value of the wrong kind",
    ),
    pytest.param(
        "batch=many",
        "--set batch=many: axes.batch: got 'many'; batch of mla_decode takes a whole number",
        id="axis of the wrong kind",
    ),
    pytest.param(
        "axes.batch=[1, many]",
        "--set axes.batch=[1, many]: axes.batch[1]: got 'many'; batch of mla_decode takes a whole number",
        id="axis of the wrong kind in a list",
    ),
    pytest.param(
        "axes.batch.x=1", "--set axes.batch.x=1: there is no key 'x' here: the value is not a mapping", id="into a list"
    ),
    pytest.param("tp=3", "--set tp=3: tp moves together with other axes; set zip as a whole", id="key of a zip"),
    pytest.param(
        "params={model: tiny, model: tiny}",
        "--set params={model: tiny, model: tiny}: the key 'model' is given twice, first on line 1; keep one",
        id="key twice",
    ),
    pytest.param(
        "batch=", "--set batch=: axes.batch: no values; list some, or write [null] for the value null", id="empty axis"
    ),
    pytest.param(
        "plugins=[nope.py]",
        f"--set plugins=[nope.py]: plugins[0]: no file 'nope.py' in {HERE}",
        id="unknown plugin",
    ),
]


def message_of(error: BaseException) -> str:
    """With the folder, which differs each time, under a name of its own."""
    return str(error).replace(str(Path.cwd()), HERE)


@pytest.mark.parametrize(("text", "message"), WRITTEN)
def test_a_file_that_cannot_be_meant_is_answered_with_its_line(folder: Path, text: str, message: str) -> None:
    (folder / "sweep.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_sweep(Path("sweep.yaml"))
    assert message_of(caught.value) == message


@pytest.mark.parametrize(("text", "message"), EXPANDED)
def test_a_sweep_that_does_not_fit_the_catalogue_is_answered_with_its_line(
    folder: Path, catalogue: Catalogue, text: str, message: str
) -> None:
    (folder / "sweep.yaml").write_text(text, encoding="utf-8")
    sweep = load_sweep(Path("sweep.yaml"))
    with pytest.raises(ConfigError) as caught:
        expand(sweep, catalogue)
    assert message_of(caught.value) == message


@pytest.mark.parametrize(("flag", "message"), FLAGS)
def test_a_flag_that_cannot_be_meant_is_answered_with_the_flag(
    folder: Path, catalogue: Catalogue, flag: str, message: str
) -> None:
    (folder / "sweep.yaml").write_text(HEAD + "zip: [{tp: 1}]\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        expand(load_sweep(Path("sweep.yaml"), overrides=[flag]), catalogue)
    assert message_of(caught.value) == message


def test_a_missing_file_a_folder_and_a_locked_file_are_named(folder: Path) -> None:
    locked = folder / "locked.yaml"
    locked.write_text(HEAD)
    locked.chmod(0)
    messages = {"nope.yaml": "no such file", ".": "a folder; name the YAML file in it"}
    if os.geteuid() != 0:
        messages["locked.yaml"] = "can't be read: Permission denied"
    for file, message in messages.items():
        with pytest.raises(ConfigError) as caught:
            load_sweep(Path(file))
        assert str(caught.value) == f"{file}: {message}"


def test_bytes_that_are_not_utf8_are_answered_with_their_line(folder: Path) -> None:
    (folder / "sweep.yaml").write_bytes(b"name: x\nworkload: \xff\n")
    with pytest.raises(ConfigError) as caught:
        load_sweep(Path("sweep.yaml"))
    assert str(caught.value) == "sweep.yaml:2: not UTF-8: byte 0xff; save the file as UTF-8"


def test_a_configuration_error_carries_its_location_and_ends_with_status_2(folder: Path) -> None:
    (folder / "sweep.yaml").write_text(HEAD + "order: cell\n")
    with pytest.raises(ConfigError) as caught:
        load_sweep(Path("sweep.yaml"))
    assert caught.value.location is not None
    assert (caught.value.location.file, caught.value.location.line, caught.value.location.key) == (
        "sweep.yaml",
        7,
        "order",
    )
    assert caught.value.exit_code == 2

"""Which model a decode step is of: other dimensions, one rank of several, an indexer's top-k, and what can't be."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from gpubench.errors import ArgumentError, Unsupported
from gpubench.models.presets import PRESETS
from gpubench.registry import get_workload

SMALL = {"concurrency": 5, "isl": 70, "dtype": "float32"}
FAMILIES = ["tiny-dense", "tiny-hybrid", "tiny-mla", "tiny-mla-indexer", "tiny-sparse"]
REAL = ["llama-3.1-8b", "qwen3.5-35b-a3b", "qwen3-next-80b-a3b", "deepseek-v3", "deepseek-v3.2", "minimax-m3"]


@pytest.fixture
def workload():
    return get_workload("decode_step")


@pytest.mark.parametrize("model", FAMILIES)
def test_every_family_takes_the_step_of_one_rank(set_up, workload, model):
    vocabulary = PRESETS[model].vocabulary
    for parallel, rows, logits in (("TEP", 5, vocabulary // 2), ("DEP", 3, vocabulary)):
        ready = set_up("decode_step", "eager", model=model, parallel=parallel, ranks=2, **SMALL)
        first = ready.step()
        assert first["logits"].shape == (rows, logits)
        assert first["logits"].isfinite().all()
        workload.reset_function(ready.inputs["cache"])
        assert torch.equal(ready.step()["logits"], first["logits"])


@pytest.mark.parametrize("model", REAL)
@pytest.mark.parametrize("parallel", ["TEP", "DEP"])
def test_eight_ranks_divide_what_they_share_and_nothing_else(model, parallel):
    whole = PRESETS[model]
    share = whole.rank_share(parallel, 8)
    assert (share.layers, share.hidden, share.context) == (whole.layers, whole.hidden, whole.context)
    assert share.vocabulary == (whole.vocabulary if parallel == "DEP" else whole.vocabulary // 8)
    if hasattr(whole, "moe"):
        assert (share.moe.held, share.moe.experts) == (whole.moe.experts // 8, whole.moe.experts)
        assert share.expert_ranks == (8 if parallel == "DEP" else 1)
    assert share.weight_bytes(2) < whole.weight_bytes(2) or (model == "llama-3.1-8b" and parallel == "DEP")
    # Under DEP 8 sequences of one rank, of whose experts those of seven more take their part.
    work = share.step_flop(8, 64) / whole.step_flop(8, 64)
    assert work == pytest.approx(1 / 8 if parallel == "TEP" else 1, rel=0.4)


@pytest.mark.parametrize("model", FAMILIES)
def test_attention_that_a_family_does_not_have_or_that_is_not_installed_skips_the_cell(workload, model):
    for attention in ("triton", "flashinfer"):
        with pytest.raises(Unsupported, match="attention: "):
            workload.make(model=model, attention=attention, **SMALL)


def test_a_rank_of_several_has_no_twin_in_transformers(set_up):
    pytest.importorskip("transformers", minversion="5.0")
    with pytest.raises(Unsupported, match="a rank's share"):
        set_up("decode_step", "transformers", model="tiny-sparse", parallel="TEP", ranks=2, **SMALL)


def test_rates_count_all_ranks(workload):
    cell = SimpleNamespace(concurrency=64, ranks=8)
    assert workload.metrics["tok_s_user"].function(cell, 0.01) == pytest.approx(100)
    assert workload.metrics["tok_s_gpu"].function(cell, 0.01) == pytest.approx(800)


@pytest.mark.parametrize(("concurrency", "rows"), [(1, 1), (8, 1), (9, 2), (64, 8)])
def test_under_dep_a_rank_has_its_part_of_the_sequences_rounded_up(workload, concurrency, rows):
    inputs = workload.make(concurrency, 20, model="tiny-hybrid", parallel="DEP", ranks=8, dtype="float32")
    assert len(inputs["tokens"]) == rows
    assert len(inputs["cache"].others) == 7 * rows
    assert len(inputs["cache"].layers[0].state) == rows


def test_rows_of_other_ranks_are_routed_apart_from_ones_own(workload):
    inputs = workload.make(8, 20, model="tiny-hybrid", parallel="DEP", ranks=8, dtype="float32")
    moe, others = inputs["decoder"].layers[0].experts, inputs["cache"].others
    chosen = {tuple(row) for row in (others @ moe.router.T).topk(moe.shape.top_k).indices.sort().values.tolist()}
    assert len(chosen) > len(others) / 2


CELLS = [
    ({"parallel": "TEP", "ranks": 1}, "parallel: TEP divides a model between ranks; wanted ranks: 2 or more"),
    ({"ranks": 4}, "ranks: 4 ranks need parallel: TEP or DEP"),
    ({"parallel": "TEP", "ranks": 0}, "ranks is 0; wanted at least 1"),
    ({"parallel": "TEP", "ranks": 3}, "ranks: 3 don't divide 4 query heads; wanted a divisor of 4"),
    ({"model": "tiny-mla", "parallel": "TEP", "ranks": 3}, "ranks: 3 don't divide 4 attention heads"),
    ({"model": "tiny-hybrid", "parallel": "DEP", "ranks": 3}, "ranks: 3 don't divide 16 experts"),
    ({"model": "tiny-hybrid", "parallel": "TEP", "ranks": 4}, "4 don't divide 2 linear attention's key heads"),
    (
        {"parallel": "TEP", "ranks": 4, "shape": {"vocabulary": 1026}},
        "ranks: 4 don't divide 1026 tokens of the vocabulary; wanted a divisor of 1026",
    ),
    (
        {"parallel": "TEP", "ranks": 4, "shape": {"heads": 12, "kv_heads": 6}},
        "ranks: 4 don't divide 6 KV heads; wanted a divisor or a multiple of 6",
    ),
    ({"isl": 4097}, "isl: 4097 is beyond the cache: tiny-dense has positions for 4096 tokens"),
    ({"model": "llama-3.1-8b", "layers": 1, "isl": 131073}, "llama-3.1-8b has positions for 131072 tokens"),
    ({"gvr": True}, "gvr: tiny-dense has no indexer whose top-k it could find; tiny-mla-indexer, deepseek-v3.2 have"),
    ({"shape": {"hiden": 64}}, "shape.hiden: no such dimension; did you mean 'hidden'?; known: layers, hidden"),
    ({"shape": {"hidden": 64.0}}, "shape.hidden: wanted a whole number, as 128 is; got 64.0"),
    ({"shape": {"hidden": True}}, "shape.hidden: wanted a whole number, as 128 is; got True"),
    ({"shape": {"hidden": 0}}, "shape.hidden is 0; wanted at least 1"),
    ({"shape": {"norm_eps": 0.0}}, "shape.norm_eps is 0.0; wanted a number above 0"),
    ({"shape": {"rotary_base": -1}}, "shape.rotary_base is -1.0; wanted a number above 0"),
    ({"shape": {"rotary_base": float("nan")}}, "shape.rotary_base is nan; wanted a number above 0"),
    ({"model": "tiny-mla", "shape": {"dense_layers": -1}}, "shape.dense_layers is -1; wanted at least 0"),
    ({"shape": {"heads": 3}}, "heads: 3 can't be dealt to 2 KV heads; wanted a multiple of 2"),
    ({"shape": {"head_dim": 33}}, "rotary_dims: wanted an even number up to 33, a head's dimensions; got 33"),
    ({"model": "tiny-hybrid", "shape": {"delta": {"value_heads": 3}}}, "value_heads: 3 can't be dealt to 2 key heads"),
    ({"model": "tiny-hybrid", "shape": {"experts": 8}}, "no such dimension; did you mean moe: {experts: …}?; known"),
    ({"model": "tiny-hybrid", "shape": {"moe": {"exprts": 8}}}, "shape.moe.exprts: no such dimension; did you mean"),
    ({"model": "tiny-hybrid", "shape": {"moe": 8}}, "shape.moe: wanted a mapping, as in {experts: 16}; got 8"),
    ({"model": "tiny-hybrid", "shape": {"moe": {"held": 8}}}, "shape.moe.held: no such dimension"),
    ({"model": "tiny-hybrid", "shape": {"moe": {"top_k": 17}}}, "top_k: 17 experts can't be chosen"),
    ({"model": "tiny-sparse", "shape": {"moe": {"scoring": "relu"}}}, "wanted softmax or sigmoid; got 'relu'"),
    ({"model": "tiny-mla", "shape": {"indexer": {"k": 8}}}, "shape.indexer: this model has none"),
]


@pytest.mark.parametrize(("wrong", "complaint"), CELLS, ids=[complaint for _, complaint in CELLS])
def test_what_no_model_can_be_is_refused_with_the_numbers(workload, wrong, complaint):
    with pytest.raises(ArgumentError) as refused:
        workload.make(**{**SMALL, **wrong})
    assert complaint in str(refused.value)


def test_every_dimension_can_be_another(set_up):
    shape = {
        "layers": 2,
        "hidden": 96,
        "heads": 6,
        "kv_heads": 3,
        "rotary_base": 1e6,
        "delta": {"key_heads": 3, "value_heads": 6, "v": 16},
        "moe": {"experts": 6, "top_k": 2, "scale": 2},
        "vocabulary": 50,
        "attention_every": 2,
    }
    ready = set_up("decode_step", "eager", model="tiny-hybrid", shape=shape, **SMALL)
    config = ready.inputs["decoder"].config
    assert (config.hidden, config.delta.v, config.moe.experts, config.moe.scale) == (96, 16, 6, 2.0)
    assert config.moe.intermediate == PRESETS["tiny-hybrid"].moe.intermediate
    assert ready.step()["logits"].shape == (5, 50)


@pytest.mark.parametrize("model", ["tiny-mla", "tiny-sparse"])
def test_a_model_can_do_without_dense_layers_and_without_a_shared_expert(set_up, model):
    shape = {"dense_layers": 0, "moe": {"shared_intermediate": 0}}
    whole = set_up("decode_step", "eager", model=model, **SMALL)
    less = set_up("decode_step", "eager", model=model, shape=shape, **SMALL)
    assert less.step()["logits"].isfinite().all()
    parameters = [sum(weight.numel() for weight in ready.inputs["decoder"].parameters()) for ready in (whole, less)]
    config = less.inputs["decoder"].config
    assert parameters[1] * 4 == config.weight_bytes(4)
    assert parameters[0] != parameters[1]


def test_a_record_says_what_was_changed_and_whose_step_it_is(workload):
    label = workload.label_function
    assert label(model="minimax-m3", layers=4) == {"model": "minimax-m3", "layers": "4 of 60"}
    assert label(model="minimax-m3", shape={"hidden": 1024, "moe": {"experts": 64, "top_k": 2}}) == {
        "model": "minimax-m3 with hidden 1024, moe.experts 64, moe.top_k 2",
        "layers": "60 of 60",
    }
    assert label(model="deepseek-v3.2", parallel="DEP", ranks=16)["rank"] == "one rank of 16, no communication"


@pytest.mark.parametrize("parallel", ["TEP", "DEP"])
def test_what_a_rank_needs_is_said_before_anything_is_allocated(workload, parallel):
    sizes = {"model": "deepseek-v3.2", "dtype": "bfloat16", "isl": 8192, "device_bytes": 141e9, "parallel": parallel}
    assert workload.fits_function(concurrency=16, ranks=16, **sizes) is None
    reason = workload.fits_function(concurrency=16, ranks=8, **sizes)
    weights = PRESETS["deepseek-v3.2"].rank_share(parallel, 8).weight_bytes(2)
    assert f"weights {weights / 1e9:.1f}, cache " in reason
    assert reason.endswith("the device has 141.0 GB")


def test_bytes_and_flop_are_those_of_the_rank(workload):
    cell = {"concurrency": 9, "isl": 64, "model": "tiny-sparse"}
    for parallel, rows in (("TEP", 9), ("DEP", 5)):
        share = PRESETS["tiny-sparse"].rank_share(parallel, 2)
        given = {**cell, "parallel": parallel, "ranks": 2}
        assert workload.bytes_function(dtype="float32", **given) == share.step_bytes(rows, 64, 4)
        assert workload.flop_function(**given) == share.step_flop(rows, 64)


def test_other_ranks_rows_are_work_for_the_experts_alone():
    alone, met = (PRESETS["tiny-hybrid"].rank_share("DEP", ranks) for ranks in (2, 4))
    moe, layers, hidden = met.moe, met.layers, met.hidden
    routed = 16 * hidden + 4 / 4 * 3 * moe.intermediate * hidden
    own_less = (4 / 2 - 4 / 4) * 3 * moe.intermediate * hidden
    more = 3 * routed - (16 * hidden + 4 / 2 * 3 * moe.intermediate * hidden) - own_less
    assert met.step_flop(5, 32) - alone.step_flop(5, 32) == 2 * 5 * layers * more

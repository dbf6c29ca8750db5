"""A bench from its file to its report, its floors, its peers and its mistakes."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.components.backbones import BACKBONES, Backbone
from ablate.components.connectors import Connector
from ablate.efficiency.bench_plan import plan_bench
from ablate.efficiency.bench_run import check_models
from ablate.efficiency.floor import Machine, count_work, decode_floor, prefill_floor
from ablate.efficiency.peak_memory import MemoryMeter
from ablate.efficiency.peers import MambaSsmPeer, NoPeerError, TransformersPeer
from ablate.models.generation import generate
from ablate.models.sizes import planned_size
from ablate.tracking.store import Tracker
from ablate.units import MIB
from tests.support import BASE, SWEEPS, ablate, write

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "mamba": {"backbone": {"name": "mamba2", "args": {"d_model": 32, "n_layer": 1}}},
    "llama": {"backbone": {"name": "transformer", "args": {"config": LLAMA}}},
}
SMALL = {
    "base": "base.yaml",
    "models": MODELS,
    "vocabulary": 64,
    "threads": 1,
    "batch_sizes": [1, 2],
    "prompt_tokens": [4, 8],
    "new_tokens": 4,
    "repeats": 2,
    "peers": ["hf"],
    "peer_points": [[1, 4]],
    "peer_repeats": 1,
    "faster": {"mamba": ["llama"]},
    "compare": "ml_mamba/table3",
}
IMAGE_TOKENS = 64


class Broken(Connector):
    """Can be built and not run."""

    num_output_tokens = 1

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("this connector is broken")


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder where a bench of two models and one that fails has been run; its exit code."""
    folder = tmp_path_factory.mktemp("bench")
    broken = {"connector": f"{__name__}:Broken", **MODELS["mamba"]}
    write(folder / "base.yaml", BASE)
    write(folder / "small.yaml", SMALL | {"models": {"broken": broken, **MODELS}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield folder, ablate("bench", "small.yaml", "--json", "out/small.json")


@pytest.fixture(scope="module")
def document(bench: tuple[Path, int]) -> dict[str, Any]:
    return json.loads((bench[0] / "out" / "small.json").read_text())


def test_a_failing_model_does_not_stop_the_others(
    bench: tuple[Path, int], document: dict[str, Any]
) -> None:
    _, code = bench
    assert code == 1
    assert [model["model"] for model in document["models"]] == ["mamba", "llama"]
    assert document["notes"][0] == "not measured yet: broken"
    failed = Tracker().search(kind="bench-model", name="broken")[0]
    assert failed.info.status == "FAILED"
    assert failed.data.tags["ablate.error"] == "RuntimeError: this connector is broken"


def test_every_point_is_measured(document: dict[str, Any]) -> None:
    for model in document["models"]:
        assert model["image_tokens"] == IMAGE_TOKENS
        assert model["protocol"]["threads"] == 1
        places = [(p["batch"], p["prompt_tokens"], p["context"]) for p in model["points"]]
        assert places == [(1, 4, 68), (1, 8, 72), (2, 4, 68), (2, 8, 72)]
        for point in model["points"]:
            spreads = [v for v in point.values() if isinstance(v, dict)]
            assert len(spreads) == 9
            for found in spreads:
                assert len(found["values"]) == 2
                assert 0 < found["min"] <= found["median"] <= found["max"]
            assert 0 < point["decode_fraction"] < 1
            # On a busy machine this may pass 1: its rates were measured in worse moments.
            assert 0 < point["prefill_fraction"] < 10
            assert point["peak_mib"] >= 0


def test_the_parts_of_an_answer_fit_in_it(document: dict[str, Any]) -> None:
    for point in [p for model in document["models"] for p in model["points"]]:
        totals = point["total_s"]["values"]
        rates = zip(point["decode_tokens_s"]["values"], point["prepare_ms"]["values"], strict=True)
        for total, (rate, prepare) in zip(totals, rates, strict=True):
            assert point["batch"] * 2 / rate + prepare / 1e3 < total  # of 4 tokens, the last two
        assert point["eval_avg"]["values"] == pytest.approx([4 / total for total in totals])
        rows = [rate / point["batch"] for rate in point["decode_tokens_s"]["values"]]
        assert point["decode_tokens_s_row"]["values"] == pytest.approx(rows)


def test_transformers_generates_the_same_tokens(document: dict[str, Any]) -> None:
    for model in document["models"]:
        (peer,) = model["peers"]
        assert (peer["peer"], peer["batch"], peer["prompt_tokens"]) == ("hf", 1, 4)
        assert peer["agreement"] == 1.0
        times = (peer["theirs"][key]["median"] for key in ("generate_s", "first_token_s"))
        assert all(time > 0 for time in times)


def test_mlflow_has_the_document_the_plot_and_a_run_a_model(bench: tuple[Path, int]) -> None:
    client = Tracker().client
    parent = Tracker().search(kind="bench", name="small")[0]
    assert parent.info.status == "FAILED"
    names = {a.path for a in client.list_artifacts(parent.info.run_id, "bench")}
    assert names == {"bench/small.json", "bench/small.png"}
    run = Tracker().search(kind="bench-model", name="llama")[0]
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert run.data.params["backbone"] == "transformer"
    assert run.data.tags["ablate.dtype"] == "float32"
    history = client.get_metric_history(run.info.run_id, "decode_tokens_s/batch_2")
    assert sorted(metric.step for metric in history) == [68, 72]


def rows(printed: str, model: str) -> int:
    """Rows of the printed tables that begin with the model's name."""
    return len(re.findall(rf"^\| {model} +\|", printed, flags=re.MULTILINE))


def test_the_report_joins_calls_and_keeps_other_conditions_apart(
    bench: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("report", "small") == 0
    first = capsys.readouterr()
    assert rows(first.out, "mamba") == rows(first.out, "llama") == 4 + 4 + 1
    assert "mamba faster than llama" in first.out
    assert "ml_mamba/table3" in first.out
    assert ablate("report", "small", "--format", "csv") == 0
    assert "mamba faster than llama," in capsys.readouterr().out

    word = "models=[llama]"
    assert ablate("bench", "small.yaml", word, "batch_sizes=[1]", "peers=[]") == 0
    joined = capsys.readouterr().out
    assert rows(joined, "mamba") == 4 + 4 + 1
    assert rows(joined, "llama") == 2 + 2
    assert ablate("bench", "small.yaml", word, "dtype=bfloat16", "batch_sizes=[1]", "peers=[]") == 0
    apart = capsys.readouterr()
    assert (rows(apart.out, "mamba"), rows(apart.out, "llama")) == (0, 2 + 2)
    assert "measured under other conditions than the newest, and not shown: mamba" in apart.err


MALFORMED = {
    "unknown key": (SMALL | {"batches": [1]}, ["batches", "unknown key", "'batch_sizes'"]),
    "no models": (SMALL | {"models": {}, "faster": {}}, ["models", "names no model"]),
    "a model that is no diff": (
        SMALL | {"models": MODELS | {"mamba": 3}},
        ["models.mamba", "diff"],
    ),
    "a model's unknown argument": (
        SMALL | {"models": MODELS | {"mamba": {"backbone": {"name": "mamba2", "args": {"d": 3}}}}},
        ["models.mamba", "backbone.args.d", "no such argument"],
    ),
    "a wrong type": (SMALL | {"repeats": "many"}, ["repeats", "many"]),
    "too few new tokens": (SMALL | {"new_tokens": 2}, ["new_tokens", "3 or more, not 2"]),
    "no warm-up": (SMALL | {"warmup": 0}, ["warmup", "1 or more, not 0"]),
    "a batch size of nothing": (SMALL | {"batch_sizes": [1, 0]}, ["batch_sizes", "not 0"]),
    "a length twice": (SMALL | {"prompt_tokens": [4, 4]}, ["prompt_tokens", "different", "[4, 4]"]),
    "no lengths": (SMALL | {"prompt_tokens": []}, ["prompt_tokens", "[]"]),
    "no threads": (SMALL | {"threads": 0}, ["threads", "1 or more, not 0"]),
    "an unknown dtype": (SMALL | {"dtype": "float8"}, ["dtype", "float8"]),
    "an unknown peer": (SMALL | {"peers": ["vlm"]}, ["peers", "'vlm'", "mamba-ssm"]),
    "a peer's point without a length": (
        SMALL | {"peer_points": [[1]]},
        ["peer_points", "[batch size, text tokens], not [1]"],
    ),
    "a claim about no model": (SMALL | {"faster": {"mamba": ["lama"]}}, ["faster", "'llama'"]),
    "an unknown published table": (SMALL | {"compare": "ml_mamba/table9"}, ["compare", "table3"]),
    "components that do not fit": (
        SMALL
        | {"models": MODELS | {"mamba": {"backbone": {"name": "mamba2", "args": {"headdim": 7}}}}},
        ["mamba", "headdim=7"],
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bench(name: str, house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, expected = MALFORMED[name]
    write(house / "small.yaml", values)
    assert ablate("bench", "small.yaml") == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    for part in ["small.yaml", *expected]:
        assert part in printed.err
    assert not (house / "mlflow.db").exists()


def test_an_unknown_model_is_refused(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(house / "small.yaml", SMALL)
    assert ablate("bench", "small.yaml", "models=[mamba, lama]") == 2
    assert "command line: models: no model 'lama'; did you mean 'llama'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (("--peer", "vlm"), "command line: --peer: no peer 'vlm'; known: hf, mamba-ssm"),
        (("--json", "x.txt"), "command line: --json: is the path of a .json file, not x.txt"),
        (("--json", "base.yaml/x.json"), "command line: --json: base.yaml: "),
        (("repeats=0",), "command line: repeats: must be 1 or more, not 0"),
        (("models=3",), "command line: models: is a list, models=[a, b], not 3"),
    ],
)
def test_mistakes_on_the_command_line_are_named_as_such(
    word: tuple[str, ...], expected: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "small.yaml", SMALL)
    assert ablate("bench", "small.yaml", *word) == 2
    assert expected in capsys.readouterr().err


def test_a_report_of_nothing_names_benches_too(
    bench: tuple[Path, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("report", "smal") == 2
    assert "no sweep or bench of that name" in (line := capsys.readouterr().err)
    assert "known: small" in line


def test_table_3_is_the_papers_protocol() -> None:
    plan = plan_bench(SWEEPS / "ml_mamba" / "table3.yaml")
    check_models(plan)
    found = {name: planned_size(run, 1, {}).image_tokens for name, run in plan.models.items()}
    expected = {"tinyllava": 576, "mobilevlm-v2": 144, "llava-1.5-7b": 576}
    assert found == expected | {"cobra": 729, "ml-mamba": 729}
    keys = plan.keys
    assert (keys.batch_sizes[0], keys.prompt_tokens[0], keys.new_tokens) == (1, 30, 256)
    assert keys.dtype == "bfloat16"
    assert keys.faster["ml-mamba"][:3] == ["tinyllava", "mobilevlm-v2", "cobra"]
    for run in plan.models.values():
        assert run.encoder.args["weights"] == run.backbone.args["weights"] == "none"


def test_the_cpu_bench_compares_equal_sizes() -> None:
    plan = plan_bench(SWEEPS / "bench_cpu.yaml")
    planned = [planned_size(run, plan.keys.vocabulary, {}) for run in plan.models.values()]
    sizes = [size.parameters["backbone"] for size in planned]
    assert max(sizes) / min(sizes) < 1.1


def test_models_and_keys_can_be_chosen_from_the_command_line(house: Path) -> None:
    path = write(house / "small.yaml", SMALL)
    plan = plan_bench(path, ["models=llama", "repeats=7", "connector=mlp"], ["mamba-ssm", "hf"])
    assert list(plan.models) == ["llama"]
    assert plan.keys.repeats == 7
    assert plan.keys.peers == ["hf", "mamba-ssm"]
    assert plan.models["llama"].connector.name == "mlp"


def backbone(name: str, **args: Any) -> Backbone:
    return BACKBONES.get(name)(64, **args).eval()


def test_a_mamba_touches_its_weights_once_and_its_state_twice() -> None:
    model = backbone("mamba2", d_model=32, n_layer=2, d_state=16, headdim=16)
    work = count_work(model)
    # A layer: 4 heads of 16 channels with 16 states each; 3 inputs of 64 + 2 * 16 channels.
    assert work.state == 2 * (4 * 16 * 16 + 3 * 96)
    assert work.grown == work.grown_bytes == 0
    assert work.head == 64 * 32
    assert work.body == sum(p.numel() for p in model.parameters()) - work.head  # tied
    weights = 4 * (work.body + work.head)
    machine = Machine({1: 1e9}, 0.0, 1e20)
    floor = decode_floor(work, machine, batch=3, length=1000)
    assert floor.bound == "bytes"
    assert floor.seconds == pytest.approx((weights + 3 * 2 * 4 * work.state) / 1e9)


def test_a_transformer_reads_its_cache_and_writes_a_position() -> None:
    model = backbone("transformer", config=LLAMA)
    work = count_work(model)
    # Two layers' keys and values of two heads of 8.
    assert (work.state, work.grown, work.grown_bytes) == (0, 2 * 2 * 2 * 8, 4 * 2 * 2 * 2 * 8)
    # The embedding is apart from the head: a row of it is read, not the table.
    assert work.body == sum(p.numel() for p in model.parameters()) - 2 * 64 * 32
    machine = Machine({1: 1e9}, 0.0, 1e20)
    touched = 4 * (work.body + work.head) + 3 * 4 * 64 * 101
    assert decode_floor(work, machine, 3, 100).seconds == pytest.approx(touched / 1e9)
    slow = Machine({1: 1e20}, 0.0, 1e9)
    floor = prefill_floor(work, slow, 2, 100)
    operations = 2 * 2 * (100 * work.body + work.head + 64 * 100 * 101 / 2)
    assert floor.bound == "operations"
    assert floor.seconds == pytest.approx(operations / 1e9)


def test_small_models_are_held_to_the_speed_of_the_caches() -> None:
    machine = Machine({100: 9.0, 1000: 5.0, 10000: 2.0}, 3.0, 1.0)
    rates = [machine.bytes_s(size) for size in (10, 100, 999, 1000, 9999, 10000, 99999)]
    assert rates == [9.0, 9.0, 9.0, 5.0, 5.0, 3.0, 3.0]


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "transformer"])
def test_transformers_has_our_weights(name: str) -> None:
    torch.manual_seed(0)
    args = {"config": LLAMA} if name == "transformer" else {"d_model": 32, "n_layer": 2}
    model = backbone(name, **args)
    ids = torch.randint(64, (2, 9))
    theirs = TransformersPeer(model).generate(ids, 7)
    ours = generate(model, model.embed(ids), max_new_tokens=7).tokens
    assert theirs.shape == (2, 7)
    assert torch.equal(theirs, ours)


def test_mamba_ssm_says_why_it_cannot_run() -> None:
    with pytest.raises(NoPeerError, match="mamba-ssm needs a CUDA device, and this is a cpu"):
        MambaSsmPeer(backbone("mamba1", d_model=32, n_layer=1))
    with pytest.raises(NoPeerError, match="has no such model"):
        MambaSsmPeer(backbone("transformer", config=LLAMA))


def peaks() -> tuple[float, float]:
    """MiB that a tensor of 64 adds to the peak, and what is left of that after a reset."""
    meter = MemoryMeter(torch.device("cpu"))
    meter.reset()
    before = meter.peak_mib()
    block = torch.ones(64 * MIB, dtype=torch.uint8)
    grown = meter.peak_mib() - before
    del block
    meter.reset()
    return grown, meter.peak_mib() - before


def test_peak_memory_is_of_what_came_after_the_reset() -> None:
    """In a process of its own: after other tests, this one may hold memory that is free again."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        grown, left = pool.submit(peaks).result()
    assert 60 < grown < 80
    assert left < 10

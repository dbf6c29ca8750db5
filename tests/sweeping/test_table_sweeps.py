"""The paper's recipes and tables at full size: what they are, and that they plan without data."""

from __future__ import annotations

import resource
import time
from functools import cache
from pathlib import Path

import pytest
import timm
import transformers

from ablate.config.schema import RunConfig
from ablate.models.sizes import ModelSize
from ablate.sweeping.plan import Plan, plan_sweep
from ablate.sweeping.preflight import model_sizes
from tests.support import SWEEPS, ablate, write

# Loaded here, so that a dry run's time is not that of importing them.
LIBRARIES = (timm.create_model, transformers.AutoModelForCausalLM)

ALONE, BOTH = ("connector",), ("connector", "backbone")
# paper, section "Training": trained components, epochs, batch, learning rate, weight decay
STAGES = {
    "text_align": (ALONE, 1, 64, 2e-5, 0.1),
    "text_finetune": (BOTH, 2, 64, 2e-5, 0.1),
    "code_align": (ALONE, 1, 256, 1e-3, 0.0),
    "code_finetune": (BOTH, 1, 128, 2e-5, 0.1),
}
TABLES = {
    2: {
        "ml-mamba": 729,
        "cobra": 729,
        "vl-mamba": 729,
        "mobilevlm-v2": 144,
        "llava-1.5-7b": 576,
        "tinyllava": 729,
    },
    4: {"mamba2-780m": 729, "mamba2-1.3b": 729, "mamba2-2.7b": 729},
    5: {"dinov2-vit-l": 729, "siglip-so400m-384": 729, "dinosiglip-384": 729},
    6: {"mlp": 729, "msc-basic": 729, "msc-advanced": 729},
    7: {"bsm": 729, "csm": 729},
}
BENCHMARKS = ["vqav2", "gqa", "textvqa", "pope", "vizwiz", "vsr"]


def table(number: int) -> Path:
    return SWEEPS / "ml_mamba" / f"table{number}.yaml"


@cache
def plan(number: int) -> Plan:
    return plan_sweep(table(number))


@cache
def table_sizes(number: int) -> dict[str, ModelSize]:
    return sizes_by_name(plan(number))


def sizes_by_name(planned: Plan) -> dict[str, ModelSize]:
    found = model_sizes(planned, {})
    return {planned.combinations[key].combination: size for key, size in found.items()}


@pytest.mark.parametrize("number", TABLES)
def test_each_table_dry_runs_without_its_data(
    number: int, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert ablate("sweep", str(table(number)), "--dry-run") == 0
    assert time.process_time() - started < 10
    gained = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert gained < 2**20  # KiB: a GiB, where the smallest model's weights alone take four
    printed = capsys.readouterr().out
    assert "Planned without its data" in printed
    assert "time not estimated" in printed
    rows = [line.split() for line in printed.splitlines()]
    for name, tokens in TABLES[number].items():
        own = [row for row in rows if row and row[0] == name]
        assert sum(row[1] == "align" for row in own) == 2
        memory, sizes = (row for row in own if row[1] != "align")
        assert len(memory) == 9
        assert str(tokens) in sizes
    assert not list(house.glob("llava*"))


@pytest.mark.parametrize("number", TABLES)
def test_tables_hold_the_papers_rows(number: int) -> None:
    assert plan(number).compare == f"ml_mamba/table{number}"
    found = {name: size.image_tokens for name, size in table_sizes(number).items()}
    assert found == TABLES[number]
    for cell in plan(number).cells:
        figures = table_sizes(number)[cell.combination].parameters
        assert figures["trainable"] == sum(figures[role] for role in BOTH)
        assert cell.config.evaluate.benchmarks == BENCHMARKS
        assert cell.config.backbone.args["weights"] == "pretrained"


@pytest.mark.parametrize("stage", STAGES)
def test_recipes_are_the_papers(stage: str, house: Path) -> None:
    source, name = stage.split("_")
    base = str(SWEEPS / "base" / f"ml_mamba_{source}.yaml")
    planned = plan_sweep(write(house / "one.yaml", {"base": base}))
    trained, *settings = STAGES[stage]
    (tuned,) = planned.cells
    assert tuned.after is not None
    cell = tuned if name == "finetune" else tuned.after
    assert (tuned.stage, tuned.after.stage, tuned.after.after) == ("", "align", None)
    config: RunConfig = cell.config
    train = config.train
    assert [train.epochs, train.batch_size, train.lr, train.weight_decay] == settings
    assert (train.warmup, train.grad_clip, train.precision) == (0.03, 1.0, "bf16")
    assert config.connector.name == ("msc-code" if "code" in stage else "msc-advanced")
    # AlignDataset of the released code: the caption alone, without what the human says
    assert config.data.prompts == ("drop" if stage == "code_align" else "keep")
    figures = sizes_by_name(planned.whole)[cell.combination].parameters
    assert figures["trainable"] == sum(figures[role] for role in trained)


def test_the_codes_default_is_one_line(house: Path) -> None:
    base = str(SWEEPS / "base" / "ml_mamba_code.yaml")
    file = write(house / "one.yaml", {"base": base, "stages": ["finetune"]})
    (cell,) = plan_sweep(file).cells
    assert cell.after is None
    assert cell.config.stages is None


def test_variants_share_an_alignment_that_is_the_same(house: Path) -> None:
    """Table 7's scans each have their own; of a learning rate of fine-tuning alone, it is one."""
    assert len({id(cell.after) for cell in plan(7).cells}) == len(plan(7).cells)
    stages = [{"align": {"backbone.policy": "freeze", "train.lr": 1e-3}}, "finetune"]
    axes = {"train.lr": [1e-5, 2e-5]}
    sweep = {"base": str(SWEEPS / "base" / "ml_mamba_text.yaml"), "stages": stages, "axes": axes}
    first, second = plan_sweep(write(house / "one.yaml", sweep)).cells
    assert first.after is second.after
    assert first.identity != second.identity


def test_the_papers_model_has_two_fifths_of_its_rivals_language_model(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The paper's "40 %" of LLaVA-1.5 7B is that of the language models, not of the whole."""
    sizes = table_sizes(2)
    ours, rival = sizes["ml-mamba"].parameters, sizes["llava-1.5-7b"].parameters
    assert ours["backbone"] == 2_702_599_680
    assert ours["backbone"] / rival["backbone"] == pytest.approx(0.401, abs=0.0005)
    assert ours["total"] / rival["total"] == pytest.approx(0.497, abs=0.0005)
    with capsys.disabled():
        print(  # noqa: T201
            f"\nML-Mamba {ours['total']:,} of LLaVA-1.5 7B's {rival['total']:,} parameters: "
            f"{ours['total'] / rival['total']:.1%} (language models alone "
            f"{ours['backbone'] / rival['backbone']:.1%}; the paper: 40 %)"
        )


def test_full_size_memory() -> None:
    """4 bytes a weight, 4 a gradient and 8 of AdamW's, of 2.8 B trained in 3.5 B parameters."""
    size = table_sizes(7)["bsm"]
    counts, whole = size.parameters, size.memory["total"]
    # buffers and AdamW's counts of steps come on top: under a mebibyte in all
    assert 0 <= whole.weights - 4 * counts["total"] < 2**20
    assert whole.gradients == 4 * counts["trainable"]
    assert 0 <= whole.optimizer - 8 * counts["trainable"] < 2**20
    parts = sum(size.memory[role].total for role in ("encoder", "connector", "backbone"))
    assert parts == whole.total


def test_lora_makes_a_7b_model_fit(house: Path) -> None:
    whole = table_sizes(2)["llava-1.5-7b"]
    overrides = ["backbone.policy=lora", "backbone.lora.r=128", "connector=mlp"]
    adapted = sizes_by_name(plan_sweep(table(2), overrides))["llava-1.5-7b"]
    counts = adapted.parameters
    # r (in + out) of each layer's seven matrices: 4 x 8192 r and 3 x 15104 r, in 32 layers
    adapters = 32 * 128 * (4 * 8192 + 3 * (4096 + 11008))
    assert counts["backbone"] == whole.parameters["backbone"] + adapters
    assert counts["trainable"] == adapters + counts["connector"]
    assert adapted.memory["total"].total < 0.4 * whole.memory["total"].total


def test_a_run_without_its_data_says_what_is_missing(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("sweep", str(table(7))) == 2
    error = capsys.readouterr().err
    assert "data: no file at llava/pretrain/blip_laion_cc_sbu_558k.json" in error
    assert error.count("\n") == 1


def test_a_mistake_in_the_datas_arguments_is_not_taken_for_missing_data(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    word = "data.args.validation_every=1"
    assert ablate("sweep", str(table(7)), word, "--dry-run") == 2
    said = "command line: data.args: data 'llava': validation_every must be 2 or more"
    assert said in capsys.readouterr().err

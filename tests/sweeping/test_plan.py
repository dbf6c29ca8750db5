"""Files in layers, the product of axes, and the identity of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.config.compose import merge
from ablate.config.identity import digest
from ablate.config.schema import Policy
from ablate.efficiency.bench_plan import plan_bench
from ablate.errors import ConfigError
from ablate.sweeping.plan import plan_sweep
from tests.support import SWEEPS, ablate, write


def test_product_of_axes_and_seeds(house: Path) -> None:
    axes = {"connector": ["linear", "mlp"], "train.lr": [1e-3, 1e-2], "seed": [5]}
    del axes["seed"]
    sweep = {"base": "base.yaml", "axes": axes, "seeds": [3, 4]}
    plan = plan_sweep(write(house / "mine.yaml", sweep))
    assert plan.name == "mine"
    assert len(plan.cells) == 8
    assert [c.name for c in plan.cells[:3]] == [
        "linear-0.001-s3",
        "linear-0.001-s4",
        "linear-0.01-s3",
    ]
    assert len({c.identity for c in plan.cells}) == 8
    assert {c.config.train.lr for c in plan.cells} == {1e-3, 1e-2}


def test_a_sweep_without_seeds_has_the_runs_own(house: Path) -> None:
    path = write(house / "s.yaml", {"base": "base.yaml", "seed": 7})
    assert [c.config.seed for c in plan_sweep(path).cells] == [7]
    assert [c.config.seed for c in plan_sweep(path, ["seed=8"]).cells] == [8]
    above = write(house / "above.yaml", {"base": "s.yaml", "seeds": [1, 2]})
    assert [c.config.seed for c in plan_sweep(above).cells] == [1, 2]
    with pytest.raises(ConfigError, match="seeds: stands beside seed"):
        plan_sweep(above, ["seed=3"])


def test_a_component_by_name_and_its_argument_with_dots(house: Path) -> None:
    """Whichever stands first: neither is lost."""
    sections = {"connector.args.depth": 3, "connector": "mlp"}
    for order in (sections, dict(reversed(sections.items()))):
        plan = plan_sweep(write(house / "s.yaml", {"base": "base.yaml", **order}))
        assert plan.cells[0].config.connector.args["depth"] == 3


def test_labelled_diffs_variants_and_exclusion(house: Path) -> None:
    sweep = {
        "base": "base.yaml",
        "axes": {
            "connector": ["mlp", {"mlp-deep": {"name": "mlp", "args": {"depth": 3}}}],
            "variant": [
                {"plain": {}},
                {"frozen": {"encoder.policy": "freeze", "train": {"lr": 0.5}}},
            ],
        },
        "exclude": [{"connector": "mlp-deep", "variant": "plain"}],
    }
    sweep["axes"]["connector"][0] = {"mlp-flat": {"name": "mlp", "args": {"depth": 2}}}
    plan = plan_sweep(write(house / "s.yaml", sweep))
    names = ["mlp-flat-plain-s0", "mlp-flat-frozen-s0", "mlp-deep-frozen-s0"]
    assert [c.name for c in plan.cells] == names
    frozen = plan.cells[1].config
    assert (frozen.encoder.policy, frozen.train.lr) == (Policy.freeze, 0.5)
    assert plan.cells[0].config.encoder.policy is Policy.train
    assert plan.cells[2].config.connector.args == {"depth": 3}


def test_a_value_refers_to_its_run_and_not_to_the_file(house: Path) -> None:
    axes = {"train.weight_decay": [0.5, "${train.lr}"]}
    run = {"base": "base.yaml", "train": {"lr": 0.25}}
    plan = plan_sweep(write(house / "s.yaml", run | {"axes": axes}))
    assert [c.config.train.weight_decay for c in plan.cells] == [0.5, 0.25]
    models = {"one": {"train.weight_decay": "${train.lr}"}}
    bench = plan_bench(write(house / "b.yaml", run | {"models": models}))
    assert bench.models["one"].train.weight_decay == 0.25


def test_another_component_starts_from_its_own_defaults() -> None:
    below = {"encoder": {"name": "timm", "args": {"block": 1}, "policy": "freeze", "pretrain": {}}}
    above = merge(below, {"encoder": {"name": "blind"}})
    assert above == {"encoder": {"name": "blind", "policy": "freeze"}}
    same = merge(below, {"encoder": {"args": {"resize": "crop"}}})
    assert same["encoder"]["args"] == {"block": 1, "resize": "crop"}
    below = {"encoder": {"pretrain": {"data": "mixture", "args": {"parts": {}}, "steps": 7}}}
    above = merge(below, {"encoder": {"pretrain": {"data": "proxy-gqa"}}})
    assert above["encoder"]["pretrain"] == {"data": "proxy-gqa", "steps": 7}


def test_overrides_win_over_axes(house: Path) -> None:
    sweep = {"base": "base.yaml", "axes": {"connector": ["linear", "mlp"]}}
    path = write(house / "s.yaml", sweep)
    plan = plan_sweep(path, ["train.lr=0.25", "seeds=[7,8]", "name=other"])
    assert plan.name == "other"
    assert [c.config.seed for c in plan.cells] == [7, 8, 7, 8]
    assert {c.config.train.lr for c in plan.cells} == {0.25}


def test_identity_covers_results_alone(house: Path) -> None:
    path = write(house / "s.yaml", {"base": "base.yaml"})
    first = plan_sweep(path).cells[0].identity
    assert len(first) == 64
    without_effect = ["measure.repeats=3", "data.num_workers=2", "evaluate.batch_size=3"]
    for change in [*without_effect, "train.log_every=9", "train.validate_every=2"]:
        assert plan_sweep(path, [change]).cells[0].identity == first, change
    with_effect = ["train.lr=0.5", "seeds=[1]", "encoder.args.block=-1", "data.max_length=9"]
    for change in [*with_effect, "evaluate.limit=5", "encoder.pretrain.steps=7"]:
        assert plan_sweep(path, [change]).cells[0].identity != first, change


def test_a_default_written_out_is_the_same_run(house: Path) -> None:
    path = write(house / "s.yaml", {"base": "base.yaml"})
    left_out, written = (
        plan_sweep(path),
        plan_sweep(path, ["encoder.args.block=-2", "train.epochs=1"]),
    )
    assert left_out.cells[0].identity == written.cells[0].identity


def test_the_hash_is_the_same_in_every_process() -> None:
    """A golden value: Python's own hash() would be salted anew in each process."""
    expected = "2b421f09d4a1fcfaabccde73edc5b85cf17142c51352b4925bdc29c6aaed06e5"
    assert digest({"b": 1.5, "a": [2, None]}) == expected


SHIPPED = [*SWEEPS.glob("*.yaml"), *SWEEPS.glob("proxy/*.yaml")]


@pytest.mark.parametrize(
    "path",
    sorted(p for p in SHIPPED if "\nmodels:" not in p.read_text()),  # those are benches
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_shipped_sweeps_plan(path: Path) -> None:
    plan = plan_sweep(path)
    assert len(plan.cells) >= 1


CONNECTORS = {"name": "linear"}, {"name": "mlp"}, {"name": "msc-basic"}


def test_labels_are_any_text(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = ["vit[/14]", ":100:", "line\nbreak"]
    connectors = [{label: diff} for label, diff in zip(labels, CONNECTORS, strict=True)]
    sweep = {"base": "base.yaml", "name": "[red]all[/]", "axes": {"connector": connectors}}
    write(house / "s.yaml", sweep)
    plan = plan_sweep(house / "s.yaml")
    assert list(plan.axes["connector"]) == labels
    names = ["vit[/14]", ":100:", r"line\nbreak"]
    assert [cell.combination for cell in plan.cells] == names
    assert ablate("sweep", "s.yaml", "--dry-run") == 0
    printed = capsys.readouterr().out
    for name in [*names, "[red]all[/]: 3 cells"]:
        assert name in printed


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a", "a-b"], ["b-c", "c"]], "axes: {'connector': 'a', 'train': 'b-c'} and {'connector'"),
        ([["", "base"]], "would both be called 'base'; give a value another label"),
        ([["a", "a "]], "axes.connector: 'a' and 'a ' look alike; rename one"),
        ([["\u00e9", "e\u0301"]], "look alike"),
        ([["a\n", r"a\n"]], "look alike"),
    ],
)
def test_two_cells_do_not_look_alike(
    labels: list[list[str]], message: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diffs = {"connector": CONNECTORS, "train": [{"lr": 0.1}, {"lr": 0.2}]}
    axes = {
        axis: [{label: diff} for label, diff in zip(texts, diffs[axis], strict=False)]
        for axis, texts in zip(diffs, labels, strict=False)
    }
    write(house / "s.yaml", {"base": "base.yaml", "axes": axes})
    assert ablate("sweep", "s.yaml", "--dry-run") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

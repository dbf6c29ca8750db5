"""Malformed files: one clear line that names file, key and remedy; exit code 2; no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.cli.main import main
from ablate.errors import LONGEST
from ablate.tracking.store import Tracker
from tests.support import write

GOOD = {"base": "base.yaml", "axes": {"connector": ["linear", "mlp"]}, "seeds": [0]}

MALFORMED = {
    "wrong key": (GOOD | {"train": {"lrr": 0.1}}, ["train.lrr", "unknown key", "'lr'"]),
    "wrong key on top": (GOOD | {"axis": {}}, ["axis", "unknown key", "'axes'"]),
    "wrong type": (GOOD | {"train": {"lr": "fast"}}, ["train.lr", "fast", "Float"]),
    "wrong type of seeds": (GOOD | {"seeds": ["a"]}, ["seeds", "Integer"]),
    "unknown component": (
        GOOD | {"axes": {"connector": ["msc-basik"]}},
        ["connector.name", "msc-basik", "'msc-basic'"],
    ),
    "unknown argument": (
        GOOD | {"axes": {"connector": [{"deep": {"name": "mlp", "args": {"dept": 3}}}]}},
        ["connector.args.dept", "no such argument", "'depth'"],
    ),
    "stages for parts that are not there": (
        GOOD | {"encoder": {"pretrain_parts": [{"data": "easy-vqa"}]}},
        ["encoder.pretrain_parts", "made of others", "encoder.pretrain"],
    ),
    "a stage too few": (
        GOOD
        | {
            "encoder": {
                "name": "fused",
                "args": {"encoders": ["convnet", "convnet"]},
                "pretrain_parts": [{"data": "easy-vqa"}],
            }
        },
        ["encoder.pretrain_parts", "1 stages for 2 encoders"],
    ),
    "unknown benchmark": (
        GOOD | {"evaluate": {"benchmarks": ["easy-vqb"]}},
        ["evaluate.benchmarks", "easy-vqb", "'easy-vqa'"],
    ),
    "missing base": (GOOD | {"base": "bass.yaml"}, ["base", "bass.yaml", "'base.yaml'"]),
    "empty axis": (GOOD | {"axes": {"connector": []}}, ["axes.connector", "empty"]),
    "axis that is no path": (
        GOOD | {"axes": {"conector": ["mlp"]}},
        ["axes.conector", "'connector'"],
    ),
    "duplicate axis value": (
        GOOD | {"axes": {"connector": ["mlp", "mlp"]}},
        ["axes.connector", "'mlp'", "twice"],
    ),
    "two labels for the same run": (
        GOOD | {"axes": {"connector": ["mlp", {"again": {"name": "mlp"}}]}},
        ["axes", "same run"],
    ),
    "list among the seeds": (GOOD | {"seeds": [0, [1]]}, ["seeds[1]", "a single value", "[1]"]),
    "seed too large": (GOOD | {"seeds": [2**32]}, ["seeds", "0 to 4294967295", "4294967296"]),
    "seed of a run too large": (
        {"base": "base.yaml", "seed": 2**32},
        ["seed: is from 0 to 4294967295, not 4294967296"],
    ),
    "empty seeds": (GOOD | {"seeds": None}, ["seeds: is empty"]),
    "empty section": (GOOD | {"train": None}, ["train: is empty", "leave the key out"]),
    "empty axes": (GOOD | {"axes": None}, ["axes: is empty"]),
    "empty component": (GOOD | {"encoder": None}, ["encoder: is empty"]),
    "empty arguments": (GOOD | {"encoder": {"args": None}}, ["encoder.args: is empty"]),
    "list for a section": (
        GOOD | {"train": [1]},
        ["train", "a mapping of keys to values, not [1]"],
    ),
    "value for a section": (GOOD | {"evaluate": "pope"}, ["evaluate", "a mapping", "'pope'"]),
    "mapping for a list": (
        GOOD | {"measure": {"what": {"train": True}}},
        ["measure.what", "a list, not {'train': True}"],
    ),
    "value for a list": (
        GOOD | {"evaluate": {"benchmarks": "pope"}},
        ["evaluate.benchmarks", "a list, not 'pope'"],
    ),
    "mapping for a value": (GOOD | {"train": {"lr": {"x": 1}}}, ["train.lr", "a single value"]),
    "list of another length": (GOOD | {"train": {"betas": [0.9]}}, ["train.betas", "2 values"]),
    "list for arguments": (GOOD | {"encoder": {"args": [1]}}, ["encoder.args", "a mapping"]),
    "list for an argument's mapping": (
        GOOD | {"encoder": {"args": {"model_args": [1]}}},
        ["encoder.args.model_args", "a mapping"],
    ),
    "mapping for an argument": (
        GOOD | {"encoder": {"args": {"model": {"name": "x"}}}},
        ["encoder.args.model", "a single value"],
    ),
    "number as a key": (GOOD | {3: 1}, ["3: keys are words", "quotes"]),
    "number as a key within": (GOOD | {"train": {3: 1}}, ["train.3: keys are words", "quotes"]),
    "number as an argument's key": (
        GOOD | {"encoder": {"args": {"model_args": {3: 1}}}},
        ["encoder.args.model_args.3: keys are words"],
    ),
    "empty key": (GOOD | {"train": {None: 1}}, ["sweep.yaml: train: Incompatible key type"]),
    "empty key within a number": (GOOD | {7: {None: 1}}, ["sweep.yaml: 7: Incompatible key type"]),
    "number that is too large": (GOOD | {"train": {"lr": 10**400}}, ["train.lr: is too large"]),
    "bytes": (GOOD | {"encoder": {"args": {"model": b"x"}}}, ["encoder.args.model", "b'x'"]),
    "text that is a number": (
        GOOD | {"train": {"precision": 32}},
        ["train.precision: must be one of auto, 32, bf16, in quotes, not 32"],
    ),
    "mark of a missing value": (GOOD | {"train": {"lr": "???"}}, ["train.lr: ??? stands for"]),
    "broken reference": (GOOD | {"train": {"lr": "${"}}, ["sweep.yaml: train.lr"]),
    "given twice": (
        GOOD | {"train": {"lr": 1.0}, "train.lr": 2.0},
        ["train.lr: is given twice, nested and with dots"],
    ),
    "part of an encoder": (
        GOOD | {"encoder": {"name": "fused", "args": {"encoders": ["convnet", 5]}}},
        ["encoder.args.encoders[1]", "a mapping", "5"],
    ),
    "unknown part of an encoder": (
        GOOD | {"encoder": {"name": "fused", "args": {"encoders": [{"name": "convnt"}]}}},
        ["encoder.args.encoders[0].name", "'convnet'"],
    ),
    "part of a mixture": (
        GOOD | {"data": {"name": "mixture", "args": {"parts": {"easy": 1}}}},
        ["data.args: data 'mixture': UnknownComponentError: unknown data set 'easy'"],
    ),
    "argument of a part of a mixture": (
        GOOD
        | {
            "data": {
                "name": "mixture",
                "args": {
                    "parts": {"proxy-gqa": 1},
                    "part_args": {"proxy-gqa": {"train_samples": [9]}},
                },
            }
        },
        ["data.args.part_args.proxy-gqa.train_samples", "a single value, not [9]"],
    ),
    "stage 0 on nothing": (
        GOOD | {"encoder": {"pretrain": {"data": "mixture", "args": {"parts": {}}}}},
        ["encoder.pretrain.args: data 'mixture': a mixture needs parts"],
    ),
    "base of any length": (GOOD | {"base": "b" * 300}, ["base: cannot be read", "too long"]),
    "seed beside seeds": (GOOD | {"seed": 1}, ["seeds: stands beside seed"]),
    "axis of seeds": (GOOD | {"axes": {"seed": [1, 2]}}, ["axes.seed: sets the seed"]),
    "axis without a name": (GOOD | {"axes": {"": [1]}}, ["axes.: is no config path"]),
    "negative seed": (GOOD | {"seeds": [-1]}, ["seeds", "-1"]),
    "duplicate seed": (GOOD | {"seeds": [1, 1]}, ["seeds", "twice"]),
    "no seed": (GOOD | {"seeds": []}, ["seeds", "empty"]),
    "impossible value": (GOOD | {"train": {"batch_size": 0}}, ["train.batch_size", "above 0"]),
    "exclusion of an unknown value": (
        GOOD | {"exclude": [{"connector": "msc"}]},
        ["exclude", "'msc'", "linear"],
    ),
    "a grid that the connector cannot take": (
        {
            "base": "base.yaml",
            "encoder": {"name": "blind", "args": {"grid": [1, 16]}},
            "axes": {"connector": [{"csm": {"name": "msc-basic", "args": {"scan": "csm"}}}]},
        },
        ["cell csm", "connector", "msc-basic", "1 x 16"],
    ),
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 2
    printed = capsys.readouterr()
    lines = printed.err.strip().splitlines()
    assert len(lines) == 1, printed.err
    assert len(lines[0]) <= LONGEST + len("ablate: ")
    assert "Traceback" not in printed.err + printed.out
    return lines[0]


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_sweep(name: str, house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values, expected = MALFORMED[name]
    write(house / "sweep.yaml", values)
    line = refused(capsys, "sweep", "sweep.yaml", "--dry-run")
    for part in ["sweep.yaml", *expected]:
        assert part in line


def test_yaml_syntax(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (house / "sweep.yaml").write_text("axes:\n  connector: [mlp\nseeds: [0]\n")
    line = refused(capsys, "sweep", "sweep.yaml")
    assert "sweep.yaml" in line
    assert "not valid YAML at line 3" in line


def test_duplicate_key(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (house / "sweep.yaml").write_text("seeds: [0]\nseeds: [1]\n")
    assert "duplicate key seeds" in refused(capsys, "sweep", "sweep.yaml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seeds: [" + "9" * 5000 + "]", "cannot be read: Exceeds the limit"),
        ("train: !!timestamp 2026-13-45", "cannot be read: month must be in 1..12"),
        ("train: &again {lr: *again}", "is not valid YAML"),
        ("train: " + "[" * 900 + "]" * 900, "cannot be read: maximum recursion depth"),
        ("train: " + "[" * 2000, "is not valid YAML at line 1"),
        ("- a list", "must hold a mapping"),
        ("? [a]\n: 1", "is not valid YAML"),
    ],
)
def test_unreadable_file(
    text: str, expected: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (house / "sweep.yaml").write_text(text)
    line = refused(capsys, "sweep", "sweep.yaml")
    assert f"sweep.yaml: {expected}" in line


def test_names_of_any_length_and_characters(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = GOOD | {"train": {"a\nb\x1b" + "c" * 999: 1}}
    write(house / "sweep.yaml", values)
    line = refused(capsys, "sweep", "sweep.yaml")
    assert r"sweep.yaml: train.a\nb\x1bccc" in line
    assert "unknown key" in line
    write(house / "sweep.yaml", GOOD | {"axes": {"connector": [{"mlp": "m" * 999}]}})
    assert "`label: {diff}`, not {'mlp': 'mmm" in refused(capsys, "sweep", "sweep.yaml")


BENCH = {"base": "base.yaml", "models": {"one": {"connector": "linear"}, "two": {}}}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"models": ["one"]}, "models: is a mapping of keys to values, not ['one']"),
        ({"models": {"one": [1]}}, "models.one: is a diff from the file's own sections, not [1]"),
        ({"models": {1: {}}}, "models.1: keys are words"),
        ({"faster": {"one": [["two"]]}}, "faster.one[0]: is a single value, not ['two']"),
        ({"faster": {"one": "two"}}, "faster.one: is a list, not 'two'"),
        ({"faster": ["one"]}, "faster: is a mapping"),
        ({"faster": {"one": [2]}}, "faster: no model '2' in this file; known: one, two"),
        ({"peers": [{"hf": 1}]}, "peers[0]: is a single value, not {'hf': 1}"),
        ({"peers": [None]}, "peers[0]: is empty"),
        ({"peer_points": [[1, [2]]]}, "peer_points[0][1]: is a single value"),
        ({"batch_sizes": {"a": 1}}, "batch_sizes: is a list"),
        ({"dtype": ["float32"]}, "dtype: must be one of float32, bfloat16, not ['float32']"),
        ({"threads": {}}, "threads: is a single value, not {}"),
    ],
)
def test_malformed_bench(
    change: dict, expected: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "bench.yaml", BENCH | change)
    assert f"bench.yaml: {expected}" in refused(capsys, "bench", "bench.yaml")


@pytest.mark.parametrize("chosen", ["{a: 1}", "[[one]]", "[{1: 2}]", "[3]", "7", "[]"])
def test_malformed_choice_of_models(
    chosen: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "bench.yaml", BENCH)
    assert "command line: models: " in refused(capsys, "bench", "bench.yaml", f"models={chosen}")


def test_cyclic_base(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(house / "a.yaml", {"base": "b.yaml"})
    write(house / "b.yaml", {"base": "a.yaml"})
    write(house / "sweep.yaml", {"base": "a.yaml"})
    line = refused(capsys, "sweep", "sweep.yaml")
    assert "b.yaml: base: is cyclic: sweep.yaml -> a.yaml -> b.yaml -> a.yaml" in line


def test_missing_file(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'base.yaml'" in refused(capsys, "sweep", "bse.yaml")


def test_mistake_in_a_base_names_the_base(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(house / "other.yaml", {"base": "base.yaml", "train": {"lrr": 1}})
    write(house / "sweep.yaml", GOOD | {"base": "other.yaml"})
    assert "other.yaml: train.lrr" in refused(capsys, "sweep", "sweep.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.lrr=1", "command line: train.lrr: unknown key"),
        ("trian.lr=1", "command line: trian.lr: unknown key"),
        ("train.lr", "an override is key=value"),
        ("train.lr=fast", "command line: train.lr"),
        ("train.lr=${", "command line: train.lr"),
        ("train.lr={null: 1}", "command line: train.lr: Incompatible key type"),
        ("train={3: 1}", "command line: train.3: keys are words"),
        ("train.betas[0]=0.5", "command line: train.betas: is a list, not {'0': 0.5}"),
        ("train.lr=" + "x" * 5000, "command line: train.lr"),
        ("seeds=[4294967296]", "command line: seeds: a seed is from 0 to 4294967295"),
        ("seeds=${nothing}", "seeds: Interpolation key 'nothing' not found"),
        ("data.args.folder=caf\udce9", "data.args.folder=caf\\udce9: 'utf-8' codec can't encode"),
        ("train.lr=${nothing}", "command line: train.lr: Interpolation key 'nothing' not found"),
    ],
)
def test_override(
    override: str, expected: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "sweep.yaml", GOOD)
    assert expected in refused(capsys, "sweep", "sweep.yaml", override)


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ({}, "search: is empty"),
        ({"train.lr": {"low": 1.0}}, "search.train.lr: needs low < high"),
        ({"train.lr": {"low": 2.0, "high": 1.0}}, "needs low < high"),
        ({"train.lrr": {"low": 1.0, "high": 2.0}}, "train.lrr: unknown key"),
        ({"train.lr": {"low": 0.0, "high": 1.0, "log": True}}, "log needs low above 0"),
        ({"connector": {"choices": []}}, "empty list of choices"),
        ({"connector": {"choices": ["mpl"]}}, "unknown connector 'mpl'"),
        ({"connector": {"choices": ["mlp", "mpl"]}}, "unknown connector 'mpl'"),
        ({"train.lr": {}}, "search.train.lr: needs low < high"),
        ({"train.lr": [1, 2]}, "search.train.lr: is a mapping"),
        ({"train.lr": {"low": [1], "high": 2}}, "low: is a single value, not [1]"),
        ({"train.lr": {"low": 0.0, "high": float("inf")}}, "needs low < high"),
        ({"train.lr": {"low": 0.0, "high": 1.0}}, "train.lr: must be above 0"),
        ({"train.batch_size": {"low": 4, "high": 8, "step": 0.5}}, "is a whole number"),
        ({"train.batch_size": {"low": 1.5, "high": 8}}, "could not be converted to Integer"),
        ({"train.lr": {"low": 0.1, "high": 1.0, "step": 0}}, "needs a step above 0 and at most"),
        ({"train.lr": {"low": 0.1, "high": 1.0, "step": 2}}, "needs a step above 0 and at most"),
        (
            {"train.lr": {"low": 0.1, "high": 1.0, "step": 0.4}},
            "steps of 0.4 lead from 0.1 to 0.9 and not to 1",
        ),
        ({"train.save": {"low": 0, "high": 1}}, "search.train.save: is no number; give choices"),
        ({"train.lr": {"choices": [1.0], "low": 2}}, "has choices, beside which"),
        ({"train.lr": {"low": 0.1, "high": 1, "integer": True}}, "integer: unknown key"),
    ],
)
def test_malformed_study(
    search: dict, expected: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "study.yaml", {"base": "base.yaml", "search": search})
    assert expected in refused(capsys, "study", "study.yaml")


def test_unknown_sweep_in_report(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing: no store of runs at sqlite" in refused(capsys, "report", "nothing")
    assert not (house / "mlflow.db").exists()
    Tracker()
    assert "no sweep or bench of that name" in refused(capsys, "report", "nothing")
    assert "not one of md, latex, csv" in refused(capsys, "report", "nothing", "--format", "pdf")

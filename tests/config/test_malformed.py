"""Malformed files: one clear line that names file, key and remedy; exit code 2; no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.cli.main import main
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

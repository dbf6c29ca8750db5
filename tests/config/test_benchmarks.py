"""How benchmarks are listed in files: names, labels with arguments, definitions in files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.config.compose import Layer, compose, expand, overrides
from ablate.config.identity import identity, to_dict
from ablate.config.schema import EvaluateConfig, RunConfig
from ablate.errors import ConfigError
from tests.support import BASE, write


def asked(*layers: dict[str, Any], **first: Any) -> EvaluateConfig:
    return run(*layers, **first).evaluate


def run(*layers: dict[str, Any]) -> RunConfig:
    sources = ["base.yaml", *(f"{number}.yaml" for number, _ in enumerate(layers))]
    pairs = zip(sources, [BASE, *layers], strict=True)
    return compose([Layer(source, expand(values, source)) for source, values in pairs])


def listed(*entries: Any) -> dict[str, Any]:
    return {"evaluate.benchmarks": list(entries)}


def test_a_name_alone_is_what_it_was() -> None:
    plain = run(listed("easy-vqa", "pope"))
    assert plain.evaluate.benchmarks == ["easy-vqa", "pope"]
    assert plain.evaluate.definitions == {}
    assert "definitions" not in to_dict(plain, identity_only=True)["evaluate"]
    spelt = run(listed("easy-vqa", {"pope": {"args": {"scoring": "probability"}}}))
    assert identity(spelt) == identity(plain)
    other = run(listed("easy-vqa", {"pope": {"args": {"scoring": "generation"}}}))
    assert other.evaluate.definitions["pope"].args == {"scoring": "generation"}
    assert identity(other) != identity(plain)


def test_a_label_has_a_benchmark_with_all_its_arguments() -> None:
    words = {"words in größe (1)": {"name": "held-out", "args": {"metric": "f1"}}}
    found = asked(listed("held-out", words))
    assert found.benchmarks == ["held-out", "words in größe (1)"]
    definition = found.definitions["words in größe (1)"]
    assert (definition.name, definition.args) == (
        "held-out",
        {"metric": "f1", "max_new_tokens": 64},
    )


def test_later_files_add_to_a_definition_or_begin_another() -> None:
    below = listed({"mine": {"name": "file", "args": {"file": "a.csv", "metric": "f1"}}})
    more = {"evaluate": {"definitions": {"mine": {"args": {"file": "b.csv"}}}}}
    args = asked(below, more).definitions["mine"].args
    assert (args["file"], args["metric"]) == ("b.csv", "f1")
    other = asked(below, listed({"mine": {"name": "held-out"}})).definitions["mine"]
    assert (other.name, other.args["metric"]) == ("held-out", "exact")
    line = overrides(["evaluate.definitions.mine.args.file=c.csv", "evaluate.limit=3"])
    layers = [Layer("base", expand(BASE, "base")), Layer("s", expand(below, "s")), line]
    assert compose(layers).evaluate.definitions["mine"].args["file"] == "c.csv"


def test_a_definition_that_is_not_asked_leaves_nothing() -> None:
    below = listed({"mine": {"name": "held-out", "args": {"metric": "f1"}}})
    assert identity(run(below, listed("easy-vqa"))) == identity(run(listed("easy-vqa")))
    assert asked(below, listed("mine")).definitions["mine"].args["metric"] == "f1"


def test_a_run_is_composed_again_from_what_it_saved() -> None:
    config = run(listed({"mmbench": {"args": {"file": "a.tsv"}}}, "pope"))
    saved = json.loads(json.dumps(to_dict(config)))
    again = compose([Layer("config.yaml", saved)])
    assert identity(again) == identity(config)
    assert again.evaluate == config.evaluate
    assert again.evaluate.definitions["mmbench"].name == "file"


def test_a_file_may_define_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = {"file": "a.csv", "columns": {"question": "q"}, "metric": "f1"}
    write(tmp_path / "mine.yaml", {"name": "file", "args": args})
    found = asked(listed("mine.yaml"))
    assert found.benchmarks == ["mine"]
    assert found.definitions["mine"].args["columns"] == {"question": "q"}
    labelled = {"other": {"name": "mine.yaml", "args": {"columns": {"answers": "a"}}}}
    args = asked(listed(labelled)).definitions["other"].args
    assert args["columns"] == {"question": "q", "answers": "a"}
    write(tmp_path / "mine.yaml", {"args": args})
    with pytest.raises(ConfigError, match=r"^mine.yaml: name: no benchmark is named"):
        asked(listed("mine.yaml"))
    with pytest.raises(ConfigError, match=r"^gone.yaml: no such file"):
        asked(listed("gone.yaml"))


MISTAKES: dict[str, tuple[Any, str]] = {
    "unknown name": ("mmbensh", "0.yaml: evaluate.benchmarks: no benchmark 'mmbensh'.*'mmbench'"),
    "arguments without args": (
        {"mmbench": {"file": "x"}},
        r"0.yaml: evaluate.benchmarks.mmbench.file: unknown key; .*args: \{ARGUMENT: VALUE\}",
    ),
    "two labels in one": ({"a": {}, "b": {}}, "0.yaml: evaluate.benchmarks: a benchmark is a name"),
    "empty definition": ({"pope": None}, "0.yaml: evaluate.benchmarks: a benchmark is a name"),
    "unknown class": ({"mine": {"name": "fill"}}, "no benchmark 'fill'.*'file'"),
    "argument that is needed": (
        {"mmbench": {}},
        "definitions.mmbench.args.file: benchmark 'file' needs this argument",
    ),
    "unknown argument": (
        {"mine": {"name": "held-out", "args": {"metrik": "f1"}}},
        "0.yaml: evaluate.definitions.mine.args.metrik: .*'metric'",
    ),
    "unknown metric": (
        {"mine": {"name": "held-out", "args": {"metric": "f2"}}},
        "0.yaml: evaluate.definitions.mine.args.metric: must be one of exact, contains, f1",
    ),
    "label of another": ({"pope": {"name": "held-out"}}, "'pope' is another benchmark's name"),
    "label with a slash": ({"a/b": {"name": "held-out"}}, "'a/b' cannot be a label"),
    "label with a dot": ({"v1.0": {"name": "held-out"}}, "'v1.0' cannot be a label"),
    "label of a run's metrics": ({"train": {"name": "held-out"}}, "'train' cannot be a label"),
}


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mistake_is_one_line(name: str) -> None:
    entry, message = MISTAKES[name]
    with pytest.raises(ConfigError, match=message) as raised:
        asked(listed("easy-vqa", entry))
    assert "\n" not in str(raised.value)

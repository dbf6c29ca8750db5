"""The page of a sweep: one file that fetches nothing, holds any name as text, and has its parts."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.analysis.conclusions import Findings, conclude
from ablate.analysis.disagreement import MOST, disputed
from ablate.analysis.evidence import Evidence
from ablate.analysis.page import HERE, Extras, categories_table, page, summary
from ablate.analysis.page_figures import pareto
from ablate.analysis.statistics.ratios import mean_speed
from tests.analysis.planted import drawn, records
from tests.analysis.test_bench_tables import results as bench
from tests.analysis.test_conclusions import evidence

EVIL = """<script>alert('x')</script> " onload=alert(1) {{ 7*7 }} $x^{$ --> ]]> <img src=//e.x/i>"""
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)


def findings(names: tuple[str, ...] = ("blind", "mlp", "msc"), text: str = "blue") -> Findings:
    """Findings of three variants, the first blind, whose texts and names are as given."""
    made = drawn(dict(zip(names, (0.3, 0.7, 0.75), strict=True)), images=150)
    rows = []
    for variant, held in made.items():
        for seed, values in enumerate(held):
            for record in records(values):
                own = {"item": record["id"], "image": record["image_id"], "variant": variant}
                said = {"question": text, "answer": text, "category": text, "prediction": text}
                numbers = {k: record[k] for k in ("score", "log_probability")}
                rows.append({**own, "seed": seed, "benchmark": text, **said, **numbers})
    labels = {name: {"connector": name} for name in names}
    base = evidence(made, labels)
    speeds = pd.DataFrame(
        {
            "variant": v,
            "machine": text,
            "metric": "decode_tokens_s_b1",
            "value": n,
            "session": f"{v}{s}",
        }
        for v in names
        for s, n in enumerate((100.0, 110.0, 90.0))
    )
    cells = base.cells.assign(benchmark=text, **{"seconds/train": 3600.0})
    plan = {"claims": {"mine": {"better": names[2], "than": names[1], "says": text}}}
    return conclude(
        Evidence(
            text,
            labels,
            pd.DataFrame(rows),
            cells,
            speeds,
            names[:1],
            plan,
            (text,),
            {"mine": text},
        )
    )


def extras(text: str = "box", names: tuple[str, ...] = ("blind", "mlp", "msc")) -> Extras:
    curves = pd.DataFrame(
        {"variant": v, "seed": s, "step": n, "value": 3.0 / (n + 1)}
        for v in names
        for s in range(3)
        for n in range(400)
    )
    images = {(text, f"test-{n:04d}"): "data:image/jpeg;base64," + "A" * 6000 for n in range(300)}
    return Extras(curves, images, (), {"machine": text})


class Read(HTMLParser):
    """Tags, attributes and texts of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(key, value or "") for key, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_has_every_part_and_fetches_nothing() -> None:
    text = page(findings(), extras("blue"))
    read = Read(text)
    assert re.findall(r"<h2>(.*?)</h2>", text) == [
        "What was found",
        "Differences from mlp",
        "Score against speed",
        "Every seed",
        "Training",
        "By type of question",
        "Where variants disagree",
        "Claims and published numbers",
        "What cannot be concluded",
        "Provenance and cost",
    ]
    links = [value for key, value in read.attributes if key in ("src", "href", "xlink:href")]
    assert all(link.startswith(("#", "data:image/")) for link in links)
    assert not re.findall(r"""url\((?!['"]?#)|@import|\bfetch\(|XMLHttpRequest""", text)
    outside = set(re.findall(r"https?://[^\s\"'<)]+", text))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert read.tags.count("svg") == 5
    assert read.tags.count("script") == 1
    assert "9.00 device-hours" in text
    shown = disputed(findings().evidence)
    assert 10 < len(shown) <= MOST
    assert text.count("<img") == len(shown)
    assert len(text.encode()) < 2_000_000
    ids = [value for key, value in read.attributes if key == "id"]
    assert len(ids) == len(set(ids))


def test_names_data_and_predictions_are_text() -> None:
    names = ("blind", f"a {EVIL}", f"b {EVIL}")
    text = page(findings(names, EVIL), extras(EVIL, names))
    read = Read(text)
    assert read.tags.count("script") == 1
    assert not [key for key, _ in read.attributes if key.startswith("on")]
    assert all("e.x" not in value for key, value in read.attributes if key in ("src", "href"))
    assert "49" not in {t.strip() for t in read.texts}
    assert any(EVIL in t for t in read.texts)
    assert "img" not in read.tags or read.tags.count("img") <= MOST


def test_the_script_is_short_and_the_page_does_without_it() -> None:
    assert len((HERE / "report.js").read_text().splitlines()) <= 200
    text = page(findings(), extras("blue"))
    without = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "is undecided" in without or "is better" in without
    assert "data-tip=" in without


def test_a_page_of_predictions_alone_leaves_out_what_it_does_not_know() -> None:
    made = evidence(drawn({"a": 0.5, "b": 0.6}))
    bare = Evidence("p", made.labels, made.items, pd.DataFrame(), pd.DataFrame())
    text = page(conclude(bare))
    heads = re.findall(r"<h2>(.*?)</h2>", text)
    assert "Training" not in heads
    assert "Score against speed" not in heads
    assert heads[0] == "What was found"


def test_a_page_of_one_cell() -> None:
    text = page(conclude(evidence(drawn({"base": 0.7}, seeds=1), {"base": {}})))
    assert "<td>base</td>" in text


def test_effects_and_benches_are_drawn_where_there_are_any() -> None:
    axes = [(a, b) for a in ("tinyllava", "ml-mamba") for b in ("small", "large")]
    names = {f"{a}-{b}": {"connector": a, "backbone": b} for a, b in axes}
    made = conclude(evidence(drawn(dict.fromkeys(names, 0.7)), names))
    assert "Effects of each axis" in page(made)
    plain = conclude(evidence(drawn({"tinyllava": 0.5, "ml-mamba": 0.6})))
    text = page(plain, Extras(benches=(bench(),)))
    assert "Speed over length" in text
    assert "Bench t3, on Abacus: medians." in text


def test_disputed_items_are_those_whose_scores_differ_most() -> None:
    one = np.array([[1, 1, 0, 1.0]] * 3)
    other = np.array([[0, 1, 0, 1.0], [0, 1, 0, 1], [0, 1, 0, 0]])
    blind = np.array([[0, 0, 1, 0.0]] * 3)
    made = evidence({"one": one, "other": other, "blind": blind}, apart=("blind",))
    found = disputed(made)
    assert [(d.item, d.scores) for d in found] == [
        ("test-0000", {"one": 1.0, "other": 0.0}),
        ("test-0003", {"one": 1.0, "other": pytest.approx(2 / 3)}),
    ]
    assert len(disputed(made, most=1)) == 1


def test_types_of_questions_have_intervals() -> None:
    made = findings()
    table = categories_table(made, "blue")
    assert table["type"].to_list() == ["blue"]
    assert table["mlp"][0].low < table["mlp"][0].value < table["mlp"][0].high
    assert categories_table(conclude(evidence(drawn({"a": 1.0, "b": 0.5}))), "easy-vqa").empty


def test_the_front_is_what_nothing_else_beats() -> None:
    points = [(1.0, 5.0), (2.0, 4.0), (2.0, 3.0), (3.0, 1.0), (0.5, 4.5)]
    assert pareto(points) == [(3.0, 1.0), (2.0, 4.0), (1.0, 5.0)]


def test_speeds_have_an_interval_over_sessions() -> None:
    frame = pd.DataFrame({"value": [100.0, 100.0, 400.0], "session": ["a", "a", "b"]})
    mean, low, high = mean_speed(frame)
    assert mean == pytest.approx(200)
    assert low < 1 < 10_000 < high
    assert np.isnan(mean_speed(frame[:2])[1])


def test_the_summary_is_markdown_with_the_table() -> None:
    text = summary(findings())
    assert text.startswith("- blue accuracy: ")
    assert "| connector" in text


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_the_page_runs_in_a_browser_without_a_network(tmp_path: Path) -> None:
    names = ("blind", f"a {EVIL}", f"b {EVIL}")
    (tmp_path / "r.html").write_text(page(findings(names, EVIL), extras(EVIL, names)))
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"]
    offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--enable-logging=stderr", "--v=0"]
    url = (tmp_path / "r.html").as_uri()
    done = subprocess.run(
        [*command, *offline, "--dump-dom", url], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.count('<button type="button">') > 20  # the script has made heads sortable
    assert 'id="tip"' in done.stdout
    assert "CONSOLE" not in done.stderr  # no error, and nothing that the policy refused
    pdf = tmp_path / "r.pdf"
    subprocess.run([*command, f"--print-to-pdf={pdf}", url], capture_output=True, timeout=120)
    assert pdf.read_bytes().startswith(b"%PDF")

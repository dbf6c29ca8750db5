"""`ablate data convert`, `check`, `files`, `tokenizer` and `look`."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ablate.errors import COMMAND_LINE, ConfigError, DataError

if TYPE_CHECKING:
    from ablate.data.benchmarks.annotations import OfficialBenchmark
    from ablate.data.convert import Summary

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
PROBLEMS_SHOWN = 10
Template = Literal["plain", "ml-mamba", "llava-1.5", "llava-1.5-inside", "tokenizer"]
"""Those of ``ablate.data.templates``, which takes seconds to import."""


@app.command()
def convert(
    json_file: Annotated[Path, typer.Argument(metavar="JSON", help="LLaVA-format conversations.")],
    images: Annotated[Path, typer.Option(help="The folder that the image paths start from.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes [default: one per CPU].")
    ] = None,
    on_error: Annotated[
        Literal["skip", "refuse"], typer.Option(help="What a bad record is: left out, or the end.")
    ] = "skip",
    text_only: Annotated[
        Literal["keep", "skip"], typer.Option(help="Conversations without an image.")
    ] = "keep",
    image_format: Annotated[
        Literal["original", "pixels"],
        typer.Option(help="PNG and JPEG files as they are, or decoded: large, and fast to read."),
    ] = "original",
    max_side: Annotated[
        int | None, typer.Option(min=1, help="Scale larger images down to so many pixels.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A tokenizer.json [default: one is trained].")
    ] = None,
    vocab_size: Annotated[int, typer.Option(min=1, help="Of the trained tokenizer.")] = 16384,
    validation_every: Annotated[
        int, typer.Option(min=2, help="One image in this many is held out for validation.")
    ] = 100,
    template: Annotated[
        Template, typer.Option(help="The chat template that the tokenizer is trained for.")
    ] = "llava-1.5",
) -> None:
    """Turn LLaVA-format conversations and their images into a folder of shards to train from.

    A conversion that was cut off goes on where it stopped when the same command is given again.
    """
    from ablate.data.convert import Conversion, ConvertOptions

    start = time.perf_counter()
    target = out.expanduser().resolve()
    try:
        options = ConvertOptions(
            tokenizer="" if tokenizer is None else str(tokenizer),
            vocab_size=vocab_size,
            validation_every=validation_every,
            bad=on_error,
            text_only=text_only,
            image_format=image_format,
            max_side=max_side,
            template=template,
        )
        conversion = Conversion(json_file.expanduser(), images.expanduser(), options)
        with conversion_bar() as progress:
            summary = conversion.run(target, workers, progress)
        lines = describe(summary, out, time.perf_counter() - start)
        lines += describe_text(target, template)
    except (ValueError, OSError) as error:
        raise DataError("data convert", "", str(error)) from error
    for line in lines:
        typer.echo(line)


@contextmanager
def conversion_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr of how many records are converted, of how many."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = [*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("records", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def describe(summary: Summary, out: Path, seconds: float) -> list[str]:
    """What a conversion gave, and the bad records that it left out."""
    from ablate.data.convert import PROBLEMS

    samples = sum(summary.samples.values())
    parts = ", ".join(f"{count} {split}" for split, count in summary.samples.items())
    lines = [
        f"{out}: {samples} samples ({parts}) in {summary.shards} shards, "
        f"{summary.bytes / 1e6:.1f} MB; {seconds:.1f} s, "
        f"{summary.converted / seconds:.0f} samples/s"
    ]
    if summary.converted < samples:
        lines.append(f"{samples - summary.converted} of them were converted before")
    if summary.skipped:
        lines.append(f"left out, as asked: {summary.skipped} conversations without an image")
    if summary.problems:
        lines.append(f"left out: {len(summary.problems)} bad records, see {out / PROBLEMS}")
        lines += [f"  {problem}" for problem in summary.problems[:PROBLEMS_SHOWN]]
    return lines


def describe_text(folder: Path, template: Template) -> list[str]:
    """The lengths of converted training conversations as a template writes them, and their images.

    What the tokenizer does to the template's words is told where that is bad.
    """
    from ablate.data.converted import Shards
    from ablate.data.lengths import no_pixels
    from ablate.data.survey import survey
    from ablate.data.text import TrainCollator
    from ablate.data.vocabulary import template_words

    data = Shards(folder=str(folder), template=template)
    tokenizer, samples = data.tokenizer(folder), data.split(folder, "train")
    lines = [f"as {template} writes them, train: no conversation"]
    if len(samples):
        found = survey(samples, TrainCollator(tokenizer, data.template, no_pixels, 1))
        lines = [f"as {template} writes them, train: {found.lines()[0]}", *found.lines()[1:]]
    if problem := template_words(data.template, tokenizer).problem():
        lines.append(f"warning: the tokenizer {problem}; give another --template or --tokenizer")
    return lines


@app.command()
def check(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BENCHMARK|FOLDER]...",
            help="Official benchmarks, or folders of shards [default: all official benchmarks].",
        ),
    ] = None,
) -> None:
    """Say what is there of benchmarks' official files, what is missing, and what is damaged.

    Of a folder of shards, every file is read and compared with its checksum. The exit code is 1
    unless all that was asked for is whole.
    """
    from ablate.cli.common import cache_folder
    from ablate.data.benchmarks.annotations import OfficialBenchmark
    from ablate.data.benchmarks.base import BENCHMARKS

    cache = cache_folder()
    known = [n for n in BENCHMARKS.names() if issubclass(BENCHMARKS.get(n), OfficialBenchmark)]
    whole = True
    for name in what or known:
        if name in known:
            benchmark = BENCHMARKS.get(name)()
            assert isinstance(benchmark, OfficialBenchmark)
            whole &= _show_benchmark(benchmark, cache)
        elif Path(name).expanduser().is_dir():
            whole &= _show_shards(Path(name).expanduser())
        else:
            from ablate.components.registry import nearest

            message = f"neither an official benchmark nor a folder; {nearest(name, known)}"
            raise ConfigError("data check", name, message)
    if not whole:
        raise typer.Exit(1)


def _show_benchmark(benchmark: OfficialBenchmark, cache: Path) -> bool:
    """Print what is there of a benchmark; whether that is all."""
    folder = benchmark.folder(cache)
    findings = benchmark.check(cache)
    good = all(finding.good for finding in findings)
    typer.echo(f"{benchmark.name}: {'whole' if good else 'not whole'}, looked for in {folder}")
    for finding in findings:
        place = finding.path.relative_to(folder)
        mark = "  " if finding.good else "! "
        typer.echo(f"  {mark}{place}: {finding.text}")
    return good


def _show_shards(folder: Path) -> bool:
    """Print what a folder of shards, or of splits in shards, holds; whether it is undamaged."""
    from ablate.data.convert import CONVERSION, SPLITS
    from ablate.data.shards import INDEX, damage, read_index

    directories = {path.parent for name in ("shard-*", INDEX) for path in folder.rglob(name)}
    if (folder / CONVERSION).exists():
        directories |= {folder / split for split in SPLITS}
    whole = True
    for directory in sorted(directories or {folder}):
        found = damage(directory)
        for line in found:
            typer.echo(f"! {line}")
        if not found:
            index = read_index(directory)
            size = sum(shard["bytes"] for shard in index["shards"])
            typer.echo(
                f"{directory}: {index['samples']} samples in {len(index['shards'])} shards, "
                f"{size / 1e6:.1f} MB, all as written"
            )
        whole &= not found
    return whole


@app.command()
def files(
    sweeps: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SWEEP]...", help="Sweep files, or names of some that ship [default: all]."
        ),
    ] = None,
    format: Annotated[str, typer.Option(help="md, latex, csv or html.")] = "md",
) -> None:
    """Say which files sweeps need, where each goes and comes from, and whether it is there.

    A file that is there is looked through as far as is cheap. The exit code is 1 unless all are.
    """
    import pandas as pd

    from ablate.analysis.tables import render
    from ablate.cli.common import cache_folder, check_format
    from ablate.config.shipped import find_file, shipped_sweeps
    from ablate.sweeping.needed import needed_files
    from ablate.sweeping.plan import plan_sweep

    check_format(format)
    paths = [find_file(name) for name in sweeps] if sweeps else shipped_sweeps()
    found = needed_files([plan_sweep(path) for path in paths], cache_folder())
    rows = [
        {
            "file": str(file.path),
            "what": file.what,
            "now": file.state,
            "from": file.origin,
            "size": file.size,
            "problem": file.problem if file.state == "damaged" else "",
            "sweeps": ", ".join(users),
        }
        for file, users in found
    ]
    counts = Counter(file.state for file, _ in found)
    said = ", ".join(f"{counts[state]} {state}" for state in ("there", "missing", "damaged"))
    summary = f"{len(found)} files: {said}"
    if rows:
        typer.echo(render([("Files needed", pd.DataFrame(rows))], format))
    # A table that a program reads has nothing behind it.
    typer.echo(f"\n{summary}" if format == "md" else summary, err=format != "md")
    if counts["there"] < len(found):
        raise typer.Exit(1)


@app.command()
def tokenizer(
    model: Annotated[
        str,
        typer.Argument(
            metavar="BACKBONE", help="Its name here, a hub name, or a folder of a model's files."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write: tokenizers/NAME.json.")],
) -> None:
    """Write the tokenizer that a language model's weights know as a tokenizer.json."""
    from ablate.config.registries import registry
    from ablate.data.made_tokenizer import make_tokenizer

    backbones, source = registry("backbone"), model
    if model in backbones.names():
        source = backbones.get(model).tokenizer_source({"weights": "pretrained"})
        if source is None:
            raise ConfigError(COMMAND_LINE, model, "has no published weights, and no tokenizer")
    try:
        made = make_tokenizer(source, out.expanduser())
    except (ValueError, OSError) as error:
        raise DataError("data tokenizer", model, str(error)) from error
    typer.echo(f"{out}: {made.vocab_size} tokens, of {source}; answers end with {made.eos_token}")


@app.command()
def look(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|FOLDER|RUN",
            help="Records, converted data, a sweep file or a run's id or name.",
        ),
    ],
    number: Annotated[
        int, typer.Option("-n", min=1, help="Samples, evenly spread over the training split.")
    ] = 8,
    html: Annotated[
        Path | None, typer.Option(help="Write them with their images to this file instead.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Where a file's image paths start from [default: beside it]")
    ] = None,
    template: Annotated[
        Template | None,
        typer.Option(
            help="Of records and folders: how they are written [default: as they were converted "
            "for, or llava-1.5]."
        ),
    ] = None,
    max_length: Annotated[
        int, typer.Option(min=1, help="Of records and folders: text tokens of a sample.")
    ] = 256,
) -> None:
    """Show samples as a model gets them: what of the text is given, learnt, and cut off."""
    from ablate.cli.common import cache_folder, terminal
    from ablate.cli.show_looks import show_looks
    from ablate.data.look import page
    from ablate.sweeping.looking import Written, looked_at

    folder = None if images is None else images.expanduser()
    about, samples = looked_at(what, Written(template, max_length, folder), number, cache_folder())
    try:
        looks = list(samples)
        if html is not None:
            html.expanduser().write_text(page(what, about, looks), "utf-8", "backslashreplace")
            typer.echo(f"{html} ({html.expanduser().stat().st_size / 1000:,.0f} kB)")
            return
    except OSError as error:
        raise ConfigError(COMMAND_LINE, "--html", f"{html}: {error.strerror}") from error
    except ValueError as error:
        raise DataError("data look", what, str(error)) from error
    show_looks(terminal(), about, looks)

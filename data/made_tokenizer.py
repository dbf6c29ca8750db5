"""A language model's tokenizer as one file, made from whatever files its weights come with."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from ablate.data.tokenizer import TOKENIZER, Tokenizer, tokenizer_files


def make_tokenizer(source: str, out: Path) -> Tokenizer:
    """Write a model's tokenizer as a ``tokenizer.json``, read by transformers' AutoTokenizer.

    Where ``out`` is named so, what lies beside it there (its chat template, the names of its
    special tokens) is written, too; under another name nothing else would be read.

    Args:
        source: a hub name, or a folder of the model's files.
        out: the file to write, which must not be there.

    Returns:
        The tokenizer as it is read from the file.

    Raises:
        ValueError: ``out`` is there; transformers finds no tokenizer, or one that cannot be such a
            file; or the tokenizer ends its answers otherwise without what lies beside it.
        OSError: it cannot be written.
    """
    if out.exists():
        raise ValueError(f"{out} is there already; remove it, or give another --out")
    folder = Path(source).expanduser()
    with TemporaryDirectory() as made:
        whole = _made(str(folder) if folder.is_dir() else source, Path(made))
        alone = Path(made) / "alone.json"
        shutil.copy(Path(made) / TOKENIZER, alone)
        if out.name != TOKENIZER:
            try:
                end = repr(Tokenizer.load(alone).eos_token)
            except ValueError:
                end = "unknown"
            if end != repr(whole.eos_token):
                raise ValueError(
                    f"the end token of {source} is {whole.eos_token!r} by its configuration, and "
                    f"{end} without it; give --out FOLDER/{TOKENIZER}, beside which it is kept"
                )
        out.parent.mkdir(parents=True, exist_ok=True)
        files = tokenizer_files(Path(made) / TOKENIZER) if out.name == TOKENIZER else [alone]
        for file in files:
            shutil.copy(file, out if file == alone else out.with_name(file.name))
    return Tokenizer.load(out)


def _made(source: str, folder: Path) -> Tokenizer:
    """The tokenizer of a model, saved into a folder and read from there."""
    from transformers import AutoTokenizer  # it takes seconds, and few need it

    try:
        found = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # whatever a library behind it raises
        reason = " ".join(str(error).split()) or type(error).__name__
        if find_spec("sentencepiece") is None:  # it names another package in its place
            reason += "; a tokenizer.model, as Llama's, takes `pip install sentencepiece`"
        raise ValueError(f"transformers gives no tokenizer of {source}: {reason}") from error
    found.save_pretrained(folder)
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"{type(found).__name__} of {source} cannot be written as {TOKENIZER}")
    return Tokenizer.load(folder / TOKENIZER)

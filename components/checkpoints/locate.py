"""Where the weights that a user asked for are: nowhere, a path here, or a model hub's cache."""

from __future__ import annotations

import re
from pathlib import Path

from ablate.components.checkpoints.files import CheckpointError

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_WANTED = ["config.json", "*.safetensors", "*.safetensors.index.json", "pytorch_model*"]


def locate(weights: str, published: str, *, fetch: bool = True) -> Path | None:
    """The local path of weights, downloaded once if they are on the Hugging Face hub.

    Args:
        weights: ``none``; ``pretrained`` for the published ones (also where a folder of that name
            is here: it is ``./pretrained``); the path of a file or directory; or a hub name such
            as ``state-spaces/mamba2-2.7b``.
        published: the hub name of the published ones.
        fetch: False to leave a hub name alone (None is returned), as when only planning.

    Returns:
        None for ``none``.

    Raises:
        CheckpointError: no such path, or the hub could not give it.
    """
    if weights == "none":
        return None
    path = Path(weights).expanduser()
    if weights != "pretrained" and path.exists():
        return path
    name = published if weights == "pretrained" else weights
    if not _HUB_NAME.fullmatch(name):
        raise CheckpointError(
            weights,
            "no such file or directory; give the path of one, a hub name (owner/name), "
            "'pretrained' or 'none'",
        )
    if not fetch:
        return None
    # here because it takes a second to import and a local path needs none of it
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CheckpointError(
            name,
            f"is no path here, and the hub could not give it ({type(error).__name__}); check the "
            "name and the connection, or download it elsewhere and give its directory",
        ) from error


def hub_names(weights: str, published: str) -> list[str]:
    """What ``locate`` asks the hub for, if it does."""
    if weights == "pretrained":
        return [published]
    here = weights == "none" or Path(weights).expanduser().exists()
    return [] if here or not _HUB_NAME.fullmatch(weights) else [weights]


def revision(name: str) -> str | None:
    """The commit of a hub name's weights: the hub's, or the cache's if it cannot be asked.

    None where neither knows it.
    """
    from huggingface_hub import HfApi, constants

    try:
        return HfApi().model_info(name, timeout=10).sha
    except Exception:  # offline, refused or gone: what was fetched before is what is used
        folder = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
        known = folder / "refs" / "main"
        return known.read_text().strip() if known.is_file() else None

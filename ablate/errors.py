"""What the engine says when it cannot go on."""

from __future__ import annotations

COMMAND_LINE = "command line"
"""The source of a mistake in a command's own words."""


class ConfigError(Exception):
    """A configuration that cannot be used: one line that names the file, the key and the remedy.

    Args:
        source: the file (or ``COMMAND_LINE``) that holds the mistake.
        key: the dotted key inside it, or "" for the file as a whole.
        message: what is wrong and what would be right.
    """

    def __init__(self, source: str, key: str, message: str) -> None:
        place = f"{source}: {key}" if key else source
        super().__init__(f"{place}: {' '.join(message.split())}")


class DataError(ConfigError):
    """Training data that cannot be prepared: its files are not there, or not what they should be.

    Apart from other mistakes, as a sweep can be planned without its data.
    """


class StoreError(ConfigError):
    """A store of runs or studies that cannot be reached, or refuses what is asked of it."""


class CellError(Exception):
    """A cell that cannot give a result (a non-finite loss, no supervised token): it fails alone."""


def reason(error: Exception) -> str:
    """What an exception says, with its kind where the words alone may not tell (``'depht'``)."""
    spoken = isinstance(error, ValueError | OSError)
    return str(error) if spoken else f"{type(error).__name__}: {error}"

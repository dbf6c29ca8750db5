"""Units of memory, in bytes."""

MIB = 2**20
GIB = 2**30


def in_words(size: float) -> str:
    """Bytes with a unit: GiB from a tenth of one on, or else MiB."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / MIB:.1f} MiB"

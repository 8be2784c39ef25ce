"""Names and paths as plain text, wherever they are shown."""

__all__ = [
    "counted",
    "duration_text",
    "plain",
    "shortened",
    "size_text",
    "with_article",
]

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def plain(text: str) -> str:
    """Return a text with each unprintable character written as an escape.

    Text from a file name or an artifact could otherwise move the cursor of a terminal,
    set its title, reverse the direction of a line or begin a new one.

    Example:
        >>> print(plain("a name\\x1b[2J\\nof two lines"))
        a name\\x1b[2J\\nof two lines
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text
    )


def shortened(text: str, longest: int) -> str:
    """Return a plain text, cut to a number of characters.

    Example:
        >>> shortened("frepo(pool_size=20)", 10)
        'frepo(poo…'
    """
    shown = plain(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def duration_text(seconds: float) -> str:
    """Return a duration as people write it.

    Example:
        >>> duration_text(4.2), duration_text(99.7), duration_text(3 * 3600)
        ('4.2 s', '100 s', '3 h')
    """
    for size, unit in ((86_400, "days"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def counted(count: int, what: str) -> str:
    """Return a number of things, in the singular if there is one.

    Example:
        >>> counted(1, "step"), counted(1_200, "step")
        ('1 step', '1,200 steps')
    """
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def with_article(what: str) -> str:
    """Return the name of a thing after "a" or "an".

    Example:
        >>> with_article("network"), with_article("attack")
        ('a network', 'an attack')
    """
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def size_text(count: int) -> str:
    """Return a number of bytes as people write it.

    Example:
        >>> size_text(600), size_text(999_600), size_text(30 * 10**9)
        ('600 bytes', '1 MB', '30 GB')
    """
    size, unit = float(count), 0
    while size >= 999.5 and unit < len(_UNITS) - 1:
        size, unit = size / 1_000, unit + 1
    return f"{_three_digits(size)} {_UNITS[unit]}"


def _three_digits(number: float) -> str:
    """Return a number to three digits, or to a whole number from a thousand on."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"

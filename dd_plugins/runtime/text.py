"""Names and paths as plain text, wherever they are shown."""

__all__ = ["one_line", "plain"]


def plain(text: str) -> str:
    """Return a text with each unprintable character written as an escape.

    What comes from a file name or from an artifact can otherwise move the cursor of a
    terminal, set its title, turn the direction of a line or begin a new one.

    Example:
        >>> print(plain("a name\\x1b[2J\\nof two lines"))
        a name\\x1b[2J\\nof two lines
    """
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in text
    )


def one_line(error: Exception) -> str:
    """Return the message of an error in one line, or its class if it has none."""
    return " ".join(str(error).split()) or type(error).__name__

"""The exception for errors that the user can fix, and helpers for its messages."""

import re

HIDDEN = "***"  # stands for a password


class UserError(Exception):
    """Bad input. The message is one sentence: what is wrong, where, and what to do. `wb` exits with 2."""


class Interrupted(Exception):
    """A stop request ended the wait."""


def first_line(error: Exception) -> str:
    """Returns the first line of an error's message, for use inside one of our sentences."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shown(address: str) -> str:
    """Returns an address with its password hidden."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", rf"\1:{HIDDEN}@", address)

"""The one exception that is the user's to mend, and what its sentences are made of."""

import re

HIDDEN = "***"  # stands for a password


class UserError(Exception):
    """Bad input: one sentence that says what is wrong, where, and what to do. `wb` exits with 2."""


class Interrupted(Exception):
    """The wait was ended by a request to stop."""


def first_line(error: Exception) -> str:
    """What an error says first, for the middle of a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def shown(address: str) -> str:
    """An address without its password."""
    return re.sub(r"(://[^:/@]*):[^@/]*@", rf"\1:{HIDDEN}@", address)

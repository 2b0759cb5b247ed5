"""The one exception that is the user's to mend."""


class UserError(Exception):
    """Bad input: one sentence that says what is wrong, where, and what to do. `wb` exits with 2."""


def first_line(error: Exception) -> str:
    """What an error says first, for the middle of a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

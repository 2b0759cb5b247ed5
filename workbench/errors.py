"""The one exception that is the user's to mend."""


class UserError(Exception):
    """Bad input: one sentence that says what is wrong, where, and what to do. `wb` exits with 2."""

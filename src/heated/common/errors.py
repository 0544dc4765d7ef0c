"""Errors that a user can put right: told without a traceback."""


class InputError(ValueError):
    """What came, what is allowed, and what to do."""

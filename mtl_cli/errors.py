"""The one kind of error that is a user's to mend. Imports nothing, so that the command line stays light."""


class UserError(ValueError):
    """Something a user can mend: shown as one message without a traceback, exit code 2."""

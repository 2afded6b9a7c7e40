"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """What a user did cannot work: one sentence that says what is wrong and what to do.

    The command line prints the sentence on standard error and exits with status 2.
    """

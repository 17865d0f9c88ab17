"""The two kinds of errors that end a script in one line; every other exception is a bug of ours."""


class UsageError(Exception):
    """A user's mistake on the command line; the text names the flag, the value and what is valid. Exit code 2."""


class DataError(Exception):
    """A file, a data set or a process that cannot be used; the text names it and says why. Exit code 1."""

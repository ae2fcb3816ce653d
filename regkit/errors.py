"""The errors that users meet. Each carries one line that says what came, what is needed and how to mend it,
and the exit code of the command line."""


class RegkitError(Exception):
    """Base of the errors that regkit raises on purpose."""

    exit_code = 1


class UsageError(RegkitError):
    """The call itself is off: unknown preset, contradictory options."""

    exit_code = 2


class InputError(RegkitError):
    """A scan, mask, label map, transform or landmark file cannot be used."""

    exit_code = 3


class MemoryLimitError(RegkitError):
    """The work does not fit in the memory at hand."""

    exit_code = 4


class TrainingError(RegkitError):
    """A training cannot go on: the loss is no longer a number, or a checkpoint cannot be written."""

    exit_code = 5

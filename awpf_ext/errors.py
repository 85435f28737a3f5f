"""Errors that are told to the user in one sentence, each with the exit code of the command line."""

from __future__ import annotations


class AwpfError(Exception):
    """Something the user can act on; the command line prints it without a traceback."""

    exit_code = 1


class UserError(AwpfError):
    """A bad argument or configuration."""

    exit_code = 2


class DataError(AwpfError):
    """Data that cannot be read, cannot be written or contradicts itself."""

    exit_code = 3


class CheckpointError(AwpfError):
    """A checkpoint that is damaged or belongs to another run."""

    exit_code = 4


class OfflineError(AwpfError):
    """Weights or data that are not here and cannot be fetched."""

    exit_code = 5

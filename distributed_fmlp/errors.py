"""One family of errors for what a user can put right; the entry points print them as one line."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave or the machine lacks: says what, why, and what to do, in one line."""


class OptionError(UserError):
    """An option's value can't be used."""


class DataError(UserError):
    """A data set is unknown, missing, unreachable or damaged."""


class RunError(UserError):
    """A run directory is missing, damaged, foreign, or in the way."""


class BundleError(UserError):
    """A bundle is missing, damaged, or not what its manifest says."""


class ClusterError(UserError):
    """Ray can't be started or reached, or has too little for what was asked."""


class StorageError(UserError):
    """A place for checkpoints can't be reached or written."""

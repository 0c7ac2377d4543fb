"""Complaints that a user can act on: the commands print them without a traceback."""


class UserError(ValueError):
    """Base of the errors below; the message names what was given and the remedy."""


class ConfigError(UserError):
    """A setting that is unknown, of the wrong type, or out of range."""


class FolderError(UserError):
    """A run folder or output file that cannot be created, written or read."""


class CheckpointError(UserError):
    """A checkpoint that is damaged or belongs to something else."""


class TrainingError(UserError):
    """Training that cannot go on, such as a loss that is not finite."""


class Interrupted(Exception):
    """Training was asked to stop and has saved its state; the message says how to resume."""

"""The errors a user is meant to read: one sentence on what was wrong, where, and what to type next."""


class DifflabError(Exception):
    """A problem that the user can mend. The command line prints it as one line and exits with code 2."""


class ConfigError(DifflabError):
    """A config that cannot be run: unknown key, wrong type, impossible combination."""


class DataError(DifflabError):
    """Images that cannot be used: unreadable, too large, too few, without the labels that were asked for."""


class StoreError(DifflabError):
    """A run directory that is locked, damaged, or belongs to another recipe."""


class TrainingError(DifflabError):
    """Training that cannot go on: a non-finite loss. The last good checkpoint is kept."""


class MemoryShort(DifflabError):
    """Memory that ran out in a stage; what was finished before is kept."""


class MeasureError(DifflabError):
    """A measure that cannot be taken honestly: too few images, missing weights, non-finite features."""

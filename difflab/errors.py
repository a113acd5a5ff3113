"""The errors a user is meant to read: one sentence on what was wrong, where, and what to type next."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def reading(what: str, kind: type[DifflabError] = DataError, then: str = "repair it or put it back from a copy") -> Iterator[None]:
    """The last net under everything that users give: inside, an exception that nobody foresaw becomes a one-line `kind` that names `what`.

    The exception stays its cause. Around our own work it has no place: there an unforeseen exception is a bug, with its traceback.
    """
    try:
        yield
    except DifflabError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # nothing is wrong with what is read
        reason = " ".join(str(error).split())[:300]
        raise kind(f"{what} cannot be read ({type(error).__name__}{': ' if reason else ''}{reason}); {then}") from error

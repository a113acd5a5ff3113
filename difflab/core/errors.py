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
def reading(
    what: object, kind: type[DifflabError] = DataError, then: str = "repair it or put it back from a copy"
) -> Iterator[None]:
    """The last net under what users bring along: inside the block any exception becomes a one-line `kind` that names `what`.

    Libraries that read damaged files raise nearly every type there is. Errors of difflab itself, a full disk and memory that ran
    out pass as they are. The original exception stays the cause. Around difflab's own work the net has no place: there an unforeseen
    exception is a bug, with its traceback.
    """
    try:
        yield
    except (DifflabError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise
        reason = " ".join(str(error).split())[:300]
        raise kind(
            f"{what} cannot be read ({type(error).__name__}{': ' if reason else ''}{reason}); {then}"
        ) from error

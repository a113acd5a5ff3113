"""Errors for the user. A message is one sentence: the problem, its place, and what to do next."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager

DISK_FULL = re.compile(r"No space left|Disk quota exceeded|\d+ requested and \d+ written")
"""Libraries report a full disk in exceptions of their own types; this text is what they share."""

DISK_ERROR = re.compile(rf"{DISK_FULL.pattern}|I/O error|Input/output error|Read-only file system")
"""The same for every disk that refuses to write."""


class DifflabError(Exception):
    """A problem that the user can fix. The command line prints it as one line and exits with code 2."""


class ConfigError(DifflabError):
    """A config that cannot be run, because of an unknown key, a wrong type or a conflict between fields."""


class DataError(DifflabError):
    """Images that cannot be used, because they are damaged, too large, too few, or have no labels."""


class StoreError(DifflabError):
    """A run directory that is locked, damaged, or belongs to another recipe."""


class TrainingError(DifflabError):
    """Training that cannot continue, because the loss is not finite. The last good checkpoint is kept."""


class MemoryShort(DifflabError):
    """A stage ran out of memory. Finished stages are kept."""


class MeasureError(DifflabError):
    """A measure that cannot be computed: too few images, missing weights or non-finite features."""


@contextmanager
def reading(
    what: object, kind: type[DifflabError] = DataError, then: str = "repair it or put it back from a copy"
) -> Iterator[None]:
    """Context manager for reading files of the user.

    Any exception in the block becomes an error of type `kind`.

    The message is one line that names `what` and ends with the advice `then`. This is needed because
    libraries raise exceptions of almost any type for damaged files. Errors of difflab, a full disk and
    missing memory are passed on unchanged. The original exception is the cause of the new one.

    Do not use it around difflab's own computations. An unexpected exception there is a bug and needs its
    traceback.
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

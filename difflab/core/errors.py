"""Errors for the user: one sentence that says what is wrong, where, and what to do next."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class DifflabError(Exception):
    """A problem that the user can fix. The command line prints it as one line and exits with code 2."""


class ConfigError(DifflabError):
    """A config that cannot be run: unknown key, wrong type, impossible combination."""


class DataError(DifflabError):
    """Images that cannot be used: unreadable, too large, too few, without the labels that were asked for."""


class StoreError(DifflabError):
    """A run directory that is locked, damaged, or belongs to another recipe."""


class TrainingError(DifflabError):
    """Training that cannot go on: a non-finite loss. The last good checkpoint is kept."""


class MemoryShort(DifflabError):
    """A stage ran out of memory. Finished stages are kept."""


class MeasureError(DifflabError):
    """A measure that cannot be taken honestly: too few images, missing weights, non-finite features."""


@contextmanager
def reading(
    what: object, kind: type[DifflabError] = DataError, then: str = "repair it or put it back from a copy"
) -> Iterator[None]:
    """Context manager for reading user files: any exception inside becomes a one-line error of type `kind`
    that names `what`.

    Libraries that read damaged files raise nearly every type there is. Errors of difflab, a full disk and
    missing memory are not changed. The original exception is kept as the cause. Do not use it around
    difflab's own computations, where an unexpected exception is a bug and needs its traceback.
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

"""`reading` turns the errors of libraries into one line, and lets all others pass."""

from __future__ import annotations

import errno

import pytest

from difflab.core.errors import ConfigError, DataError, DifflabError, StoreError, reading


def test_an_error_of_a_library_becomes_one_line_with_its_cause():
    with pytest.raises(StoreError) as caught, reading("a.png", StoreError, "delete it"):
        raise ValueError("first\nsecond")
    assert str(caught.value) == "a.png cannot be read (ValueError: first second); delete it"
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_without_words_is_named_by_its_type():
    with pytest.raises(DataError, match=r"^a.png cannot be read \(EOFError\); repair it"), reading("a.png"):
        raise EOFError


@pytest.mark.parametrize(
    "error",
    [ConfigError("own"), MemoryError(), OSError(errno.ENOSPC, "full"), OSError(errno.ENOMEM, "memory")],
)
def test_own_errors_a_full_disk_and_memory_pass_as_they_are(error):
    with pytest.raises(type(error)) as caught, reading("a.png"):
        raise error
    assert caught.value is error


def test_other_trouble_with_a_file_is_read_as_a_damaged_file():
    with pytest.raises(DataError, match=r"OSError: .*broken"), reading("a.png"):
        raise OSError(errno.EIO, "broken")


def test_all_kinds_are_errors_of_difflab():
    assert all(issubclass(kind, DifflabError) for kind in (ConfigError, DataError, StoreError))

"""Renames below a claimed folder are checked, and temporary names tell whose they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from difflab.core import fence
from difflab.core.errors import StoreError
from difflab.core.files import write_text
from difflab.core.owner import this_process

HERE = this_process()
DEAD = replace(HERE, pid=2**22 + 1).tag
ELSEWHERE = replace(HERE, machine="000000").tag


class Claimed:
    """A claim that can be lost."""

    number = 7
    lost = False

    def check(self) -> None:
        if self.lost:
            raise StoreError("taken over")


@pytest.fixture
def claim(tmp_path: Path) -> Iterator[Claimed]:
    made = Claimed()
    (tmp_path / "run").mkdir()
    fence.guard(tmp_path / "run", made)
    yield made
    fence.unguard(tmp_path / "run")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_after_a_claim_is_lost_nothing_below_the_folder_is_renamed(tmp_path, claim):
    write_text(tmp_path / "run" / "a" / "b.txt", "mine")
    claim.lost = True
    for path in (tmp_path / "run" / "a" / "b.txt", tmp_path / "run" / "new" / "c.txt"):
        with pytest.raises(StoreError, match="taken over"):
            write_text(path, "late")
    with pytest.raises(StoreError, match="taken over"), fence.atomic_folder(tmp_path / "run" / "model"):
        pass
    assert (tmp_path / "run" / "a" / "b.txt").read_text() == "mine"
    assert names(tmp_path / "run") == ["a", "new"] and names(tmp_path / "run" / "new") == []
    write_text(tmp_path / "running" / "d.txt", "beside it")
    fence.unguard(tmp_path / "run")
    write_text(tmp_path / "run" / "a" / "b.txt", "later")


def test_a_claim_holds_from_other_working_folders_too(tmp_path, claim, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fence.claim_of(Path("run/x")) is claim is fence.claim_of(Path("run"))
    assert fence.claim_of(Path("runs/x")) is None and fence.claim_of(Path("/")) is None


def test_the_nearest_claim_counts(tmp_path, claim):
    lab = Claimed()
    fence.guard(tmp_path / "run" / "lab-0", lab)
    claim.lost = True
    write_text(tmp_path / "run" / "lab-0" / "a.txt", "x")
    fence.unguard(tmp_path / "run" / "lab-0")


def test_a_temporary_folder_that_the_next_process_deleted_says_who_has_it(tmp_path, claim):
    with (
        pytest.raises(StoreError, match="taken over"),
        fence.atomic_folder(tmp_path / "run" / "model") as temporary,
    ):
        claim.lost = True
        fence.remove(temporary)
        (temporary / "weights").write_text("x")


def test_temporary_names_carry_process_and_claim(tmp_path, claim):
    inside, outside = fence.temporary_of(tmp_path / "run" / "a.txt"), fence.temporary_of(tmp_path / "a.txt")
    assert inside.name == f".a.txt.{HERE.tag}-claim7.tmp" and outside.name == f".a.txt.{HERE.tag}.tmp"
    long = fence.temporary_of(tmp_path / ("\N{HANGUL SYLLABLE GAG}" * 80))
    long.touch()
    assert fence.NAME.fullmatch(long.name)


@pytest.mark.parametrize(
    ("name", "leftover"),
    [
        (f".a.{DEAD}.tmp", True),
        (f".a.{ELSEWHERE}.tmp", False),
        (f".a.{HERE.tag}.tmp", False),
        (f".a.{ELSEWHERE}-claim6.tmp", True),  # has lost the folder, so it cannot rename it
        (f".a.{HERE.tag}-claim6.tmp", True),
        (f".a.{ELSEWHERE}-claim7.tmp", False),
        (f".a.{DEAD}-claim8.tmp", True),
        (".train_set.parquet.123.tmp", True),  # of earlier versions, which held a lock
        (".model.tmp", True),
    ],
    ids=[
        "dead",
        "elsewhere",
        "here",
        "elsewhere, earlier claim",
        "here, earlier claim",
        "elsewhere, this claim",
        "dead, later claim",
        "file of an earlier version",
        "folder of an earlier version",
    ],
)
def test_a_leftover_is_what_no_living_process_can_rename(name, leftover):
    assert fence.is_leftover(name, 7) is leftover


def test_a_folder_appears_whole_and_leftovers_for_it_go(tmp_path):
    for name in (f".out.{DEAD}.tmp", ".out.export.tmp", ".out.tmp"):
        (tmp_path / name / "deep").mkdir(parents=True)
    kept = [f".out.{ELSEWHERE}.tmp", f".other.{DEAD}.tmp", ".out.notes"]
    for name in kept:
        (tmp_path / name).mkdir()
    with fence.atomic_folder(tmp_path / "out") as temporary:
        (temporary / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == sorted([*kept, "out"]) and names(tmp_path / "out") == ["a"]
    with pytest.raises(OSError, match="not empty"), fence.atomic_folder(tmp_path / "out"):
        pass
    with pytest.raises(ValueError), fence.atomic_folder(tmp_path / "out", replace=True):
        raise ValueError
    assert names(tmp_path / "out") == ["a"]
    with fence.atomic_folder(tmp_path / "out", replace=True) as temporary:
        (temporary / "b").write_text("2")
    assert names(tmp_path) == sorted([*kept, "out"]) and names(tmp_path / "out") == ["b"]

"""The account of a set: what is counted, how it is said, and that it survives JSON."""

import json

import pytest

from difflab.data.account import SHOWN, Account


def test_a_set_that_is_read_whole_is_one_line():
    assert Account(1797, 1797).lines() == ["all 1,797 images are read"]


def test_every_kind_is_counted_and_names_the_first():
    account = Account(40, 30, ignored={".txt": 3, "": 1}, lost_area=2 / 3)
    for i in range(10):
        account.add("skipped", f"{i}.png", "truncated")
    account.add("cropped", "a.png", "48 x 16")
    first, second = account.lines()
    assert first == "30 of 40 images are read"
    assert "10 cannot be read and are left out (the first: 0.png, truncated)" in second
    assert "1 are not square and are cropped to their centre (67% of their area is lost)" in second
    assert "1 without suffix, 3 .txt" in second
    assert len(account.entries["skipped"].first) == SHOWN and account.count("skipped") == 10 and account.count("frames") == 0


def test_it_survives_json():
    account = Account(3, 2, ignored={".txt": 1}, lost_area=0.5)
    account.add("frames", "a.gif", "12 frames")
    assert Account.from_dict(json.loads(json.dumps(account.as_dict()))) == account


def test_an_unknown_kind_is_refused():
    with pytest.raises(KeyError, match="lost"):
        Account().add("lost", "a.png")

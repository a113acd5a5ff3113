"""The account of a set: what is counted, how it is said, and that it survives JSON."""

import json

import pytest
from commands import difflab
from pictures import folder, pictures

from difflab.core.account import SHOWN, Account
from difflab.runs.run import open_run


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
    assert "1 have another aspect ratio and are cropped to their centre (67% of their area is lost)" in second
    assert "1 without suffix, 3 .txt" in second
    assert (
        len(account.entries["skipped"].first) == SHOWN
        and account.count("skipped") == 10
        and account.count("frames") == 0
    )


def test_it_survives_json():
    account = Account(3, 2, ignored={".txt": 1}, lost_area=0.5)
    account.add("frames", "a.gif", "12 frames")
    assert Account.from_dict(json.loads(json.dumps(account.as_dict()))) == account


def test_what_is_no_account_is_a_value_error():
    for given in (None, {"found": 1, "read": "x"}, {"entries": {"skipped": 3}}):
        with pytest.raises(ValueError):
            Account.from_dict(given)


def test_names_are_shown_in_one_line():
    account = Account(2, 1)
    account.add("skipped", "a\nb.png", "truncated")
    assert all("\n" not in line for line in account.told("x\n"))
    assert "truncated" not in account.lines(reasons=False)[1]


def test_an_unknown_kind_is_refused():
    with pytest.raises(KeyError, match="lost"):
        Account().add("lost", "a.png")


def test_the_commands_and_the_report_say_what_became_of_the_images(tmp_path):
    """The report, which is passed on, without folders of this machine."""
    root = folder(tmp_path / "set", 40, 16)
    for i in range(0, 40, 4):
        (root / f"{i:03d}.png").write_bytes((root / f"{i:03d}.png").read_bytes()[:60])
    for i in range(6):
        pictures(1, 48, 90 + i)[0].resize((48, 16)).save(root / f"wide-{i}.png")
    (root / "copy.png").write_bytes((root / "001.png").read_bytes())
    raw = {
        "data": {"source": f"imagefolder:{root}", "image_size": 16, "bad_images": "skip"},
        "model": {"family": "memoriser"},
        "generations": 0,
    }
    raw |= {
        "sample": {"count": 10},
        "probe": {"per_condition": 0},
        "measure": {"extractors": ["pixels"], "metrics": ["fd"], "resamples": 0, "held_out_loss": 0},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(raw))
    run, said = (
        tmp_path / "run",
        [
            "37 of 47 images are read",
            "10 cannot be read",
            "6 have another aspect ratio",
            "67% of their area",
            "1 have the same content",
        ],
    )
    few = ["--extractors", "pixels", "--max-bad", "0.5", "--metrics", "fd", "--resamples", "0"]
    real = folder(tmp_path / "real", 80, 16, 3)
    for words in (
        ["run", tmp_path / "c.yaml", "--out", run],
        ["plan", tmp_path / "c.yaml"],
        ["plan", tmp_path / "c.yaml", "--json"],
        ["status", run],
        ["compare", real, root, *few],
    ):
        done = difflab(*words)
        assert done.returncode == 0, done.stderr
        wanted = [*said[:4], "1 of 37 images are exact copies"] if "compare" in words else said
        assert [text for text in wanted if text not in done.stderr] == [], words
    page = (run / "report.html").read_text()
    assert [text for text in said if text not in page] == [] and str(tmp_path) not in page.split("<h2", 2)[1]
    assert Account.from_dict(open_run(run).about["account"]).count("duplicated") == 1


def test_a_set_that_is_read_whole_is_no_news_in_a_run(tmp_path):
    config = [
        "model={family: memoriser}",
        "data.limit=40",
        "generations=0",
        "sample.count=10",
        "measure.metrics=[]",
        "probe.per_condition=0",
    ]
    (tmp_path / "c.yaml").write_text("data: {source: digits}\n")
    done = difflab("run", tmp_path / "c.yaml", *config, "--out", tmp_path / "run")
    assert done.returncode == 0 and "images are read" not in done.stderr
    assert "all 1,797 images are read, of which 40 are used" in difflab("status", tmp_path / "run").stderr

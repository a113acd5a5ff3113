"""A damaged config or run: exit code 0, 1 or 2, one line on stderr, and never a traceback."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import difflab
from pictures import folder

BASE: dict[str, Any] = {
    "name": "tiny",
    "generations": 1,
    "seed": 3,
    "data": {"source": "digits", "limit": 60, "held_out": 0.5, "tail": {"kind": "none"}},
    "model": {"family": "memoriser"},
    "regime": {"name": "replace"},
    "train": {"start_from": "scratch"},
    "sample": {"count": 20, "shard_size": 10, "batch_size": 10},
    "policies": [{"policy": "random", "share": 0.5}],
    "probe": {"per_condition": 0},
    "measure": {"extractors": ["pixels"], "metrics": ["recall"], "resamples": 0},
}
ODD: list[Any] = [
    *(
        None,
        True,
        -1,
        0,
        10**30,
        1e308,
        "",
        "\u0000",
        "\ud800",
        "x" * 5000,
        [],
        {},
        [[]],
        [None],
        {"a": {"b": []}},
    ),
    *(
        "../..",
        "imagefolder:",
        "imagefolder:\udcff",
        "parquet:/",
        "imagefolder:/dev",
        "hub:../x",
        "exact",
        "~",
        "2020-13-45",
        ["recall"] * 3,
    ),
]
BYTES = [
    b"\x00",
    b"\xff\xfe",
    b"\t",
    b": ",
    b"- ",
    b"&a *a",
    b"!!python/name:os.system ",
    b"{",
    b"[" * 5000,
    b"'",
    b"%",
    b"? ",
    b"\xed\xa0\x80",
    b"<<: 3\n",
]


def told(done: Any) -> str:
    """The one line of a command that failed."""
    assert done.returncode in (0, 1, 2), (done.args, done.stderr)
    assert "Traceback" not in done.stderr
    if done.returncode == 2:
        lines = done.stderr.splitlines()
        assert lines and lines[-1].startswith("difflab: error: "), done.stderr
        assert len(lines) == 1, done.stderr
    return done.stderr


def keys(node: Any, before: tuple = ()) -> list[tuple]:
    """The path of every value."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []
    return [path for key, value in pairs for path in ((*before, key), *keys(value, (*before, key)))]


def broken(rng: random.Random) -> bytes:
    """The YAML of a config with a value replaced, removed or added, or with bytes put in."""
    config, kind = copy.deepcopy(BASE), rng.choice(["value", "value", "bytes", "bytes", "cut", "key"])
    *parents, leaf = rng.choice(keys(config))
    node: Any = config
    for parent in parents:
        node = node[parent]
    if kind == "value":
        node[leaf] = rng.choice(ODD)
    elif kind == "key" and isinstance(node, dict):
        node[rng.choice([1, None, True, "", "\u0000", "sourc", "a.b", "x" * 500])] = node.pop(leaf)
    text = yaml.safe_dump(config, sort_keys=False).encode("utf-8", "surrogatepass")
    at = rng.randrange(len(text))
    return (
        text[:at] + rng.choice(BYTES) + text[at:] if kind == "bytes" else text[:at] if kind == "cut" else text
    )


@pytest.mark.parametrize("part", range(4))
def test_damaged_configs_are_one_line(tmp_path, part):
    for i in range(part * 20, part * 20 + 20):
        rng = random.Random(i)
        (tmp_path / "c.yaml").write_bytes(broken(rng))
        told(
            difflab(
                "run" if i % 10 == 0 else "plan",
                tmp_path / "c.yaml",
                *(["--out", tmp_path / f"run-{i}"] if i % 10 == 0 else []),
                "--json",
            )
        )


def test_overrides_of_any_kind_are_one_line(tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(BASE))
    paths = [".".join(map(str, path)) for path in keys(BASE)]
    values = [
        "",
        "null",
        "[",
        "{a: b}",
        "1e400",
        "\udcff",
        '"\\ud800"',
        '"\\0"',
        "[" * 3000,
        "!!python/name:os.system",
        "2020-13-45",
        "-1",
        "no",
        "a: b",
    ]
    odd = [
        "=",
        "a",
        "=1",
        "..=1",
        "data..source=1",
        "model.family.x=1",
        "data=null",
        "model=[]",
        "policies.0.share=1",
        "train=\n",
        ".=.",
        "data.source.=5",
    ]
    for i in range(50):
        rng = random.Random(1000 + i)
        word = odd[i] if i < len(odd) else f"{rng.choice(paths)}={rng.choice(values)}"
        told(difflab("plan", tmp_path / "c.yaml", word, "--json"))


@pytest.mark.parametrize(
    "make",
    [
        lambda p: p.mkdir(),
        lambda p: p.write_bytes(b"\xff\xfe\x00"),
        lambda p: p.write_bytes(b"name: a\x00b"),
        lambda p: p.write_bytes(b"name: \xed\xa0\x80"),
        lambda p: p.write_text('data: {source: "\\ud800"}\nmodel: {family: memoriser}'),
        lambda p: p.write_text("a: " + "[" * 100_000),
        lambda p: p.write_text("{a: " * 3000),
        lambda p: p.write_text("a: &a [*a, *a]"),
        lambda p: p.write_text("- 1"),
        lambda p: p.write_text(""),
        lambda p: p.symlink_to(p),
    ],
    ids=[
        "folder",
        "not UTF-8",
        "NUL",
        "surrogate",
        "escaped surrogate",
        "deep",
        "deep maps",
        "circle",
        "list",
        "empty",
        "link to itself",
    ],
)
def test_what_is_no_config_is_one_line(tmp_path, make):
    make(tmp_path / "c.yaml")
    done = difflab("plan", tmp_path / "c.yaml")
    assert done.returncode == 2 and ("c.yaml" in told(done) or "data.source=" in done.stderr)


NAMES = [
    "a\nb",
    "-x",
    "\udcff\udcfe",
    "a b",
    "ü'\"",
    "{class}",
    "[bold]",
    "%s",
    "a:b",
    " ",
    "\x1b[31m",
    "\u202e",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(tmp_path, name):
    folder(tmp_path / name, 6, 8)
    raw = BASE | {
        "data": {"source": f"imagefolder:{tmp_path / name}"},
        "sample": {"count": 3},
        "policies": [],
    }
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(raw))
    done = difflab("plan", tmp_path / f"{name}.yaml", "--json")
    assert done.returncode == 0 and len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.strip().isprintable()
    told(difflab("compare", name, f"--train={name}", "--", "-x"))


def test_classes_and_files_may_have_any_name_too(tmp_path):
    for i, name in enumerate(name for name in NAMES if "\udcff" not in name):
        folder(tmp_path / "\udcff -" / name, 6, 8, i)
        (tmp_path / "\udcff -" / name / "000.png").rename(tmp_path / "\udcff -" / name / f"{name}.png")
    source = f"imagefolder:{tmp_path / 'ÿ -'}".replace("ÿ", "\udcff")
    raw = BASE | {"data": {"source": source}, "sample": {"count": 30}, "policies": []}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(raw))
    run = tmp_path / "-\n run"
    refused = difflab("run", tmp_path / "c.yaml", f"--out={tmp_path / 'runs'}".replace("runs", "\udcfe"))
    assert refused.returncode == 2 and "bytes that are not UTF-8; choose another folder with --out" in told(
        refused
    )
    few, real = ["--extractors", "pixels", "--json"], tmp_path / "\udcff -"
    for words in (
        ["run", tmp_path / "c.yaml", f"--out={run}", "--json"],
        ["status", run],
        ["verify", run],
        ["diagnose", run, *few],
        ["compare", real, real, *few],
    ):
        done = difflab(*words)
        assert done.returncode == 0, done.stderr
    (real / " " / "\udcff.png").write_bytes((real / " " / " .png").read_bytes())
    assert "not UTF-8; rename it" in told(difflab("plan", tmp_path / "c.yaml"))  # the ledger is text


# ------------------------------------------------------------------------------------ files of a finished run
@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("finished")
    folder(base / "set", 40, 8)
    raw = BASE | {"data": {"source": f"imagefolder:{base / 'set'}", "held_out": 0.5}}
    (base / "c.yaml").write_text(yaml.safe_dump(raw))
    done = difflab("run", base / "c.yaml", "--out", base / "run", "--json")
    assert done.returncode == 0, done.stderr
    return base


def damage(run: Path, rng: random.Random) -> str:
    files = sorted(p for p in run.rglob("*") if p.is_file() and not p.name.startswith(".lease-"))
    file, kind = rng.choice(files), rng.choice(["flip", "cut", "empty", "gone", "folder", "other", "json"])
    content = file.read_bytes()
    if kind in ("gone", "folder"):
        file.unlink()
        if kind == "folder":
            file.mkdir()
        return f"{file} {kind}"
    at = rng.randrange(max(1, len(content)))
    file.write_bytes(
        {
            "flip": content[:at] + bytes([content[at] ^ 255] if content else []) + content[at + 1 :],
            "cut": content[:at],
            "empty": b"",
            "other": rng.choice([b"\x00" * 64, b"\xff\xfe", b"PAR1", "ü".encode()]),
            "json": rng.choice([b"{}", b"[]", b"null", b"5", b'"a"', b'{"a": null}']),
        }[kind]
    )
    return f"{file} {kind}"


@pytest.mark.parametrize("part", range(6))
def test_damaged_runs_are_one_line_and_can_be_mended_as_it_says(tmp_path, finished, part):
    for i in range(part * 8, part * 8 + 8):
        run = Path(shutil.copytree(finished / "run", tmp_path / f"run-{i}"))
        what = damage(run, random.Random(i))
        told(difflab("status", run, "--json"))
        told(difflab("verify", run, "--json"))
        words = ["run", finished / "c.yaml", "--out", run, "--json"]
        for _ in range(4):
            done = difflab(*words)
            line = told(done)
            if done.returncode == 0:
                break
            mend(line, words)
        assert done.returncode == 0, (what, line)
        shutil.rmtree(run)


def mend(line: str, words: list[Any]) -> None:
    """Do what the message says: delete the file that it names, or take another folder."""
    if "delete it" in line:
        place = next(
            Path(word.rstrip(",;:"))
            for word in re.split(r"[\s']+", line)
            if word.startswith("/") and Path(word.rstrip(",;:")).exists()
        )
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    elif "--out" in line:
        words[3] = Path(f"{words[3]}-anew")
    else:
        pytest.fail(f"it does not say what to do: {line}")


def test_the_net_names_what_was_read_and_keeps_the_cause(tmp_path, monkeypatch):
    from difflab.core.errors import DataError, reading

    with (
        pytest.raises(
            DataError, match=r"set/ cannot be read \(ZeroDivisionError: by zero\); repair it"
        ) as caught,
        reading("set/"),
    ):
        raise ZeroDivisionError("by\nzero")
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    with pytest.raises(KeyboardInterrupt), reading("set/"):
        raise KeyboardInterrupt
    with pytest.raises(DataError, match="mine"), reading("set/"):
        raise DataError("mine")
    with pytest.raises(OSError, match="No space"), reading("set/"):
        raise OSError(28, "No space left on device")
    monkeypatch.setenv("DIFFLAB_DEBUG", "1")
    (tmp_path / "c.yaml").write_text("a: " + "[" * 3000)
    assert "Traceback" in difflab("plan", tmp_path / "c.yaml").stderr


def test_a_bug_elsewhere_keeps_its_traceback(monkeypatch, tmp_path):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(BASE))
    monkeypatch.setattr("difflab.loop.plan.plan", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        difflab("plan", tmp_path / "c.yaml")


def test_json_of_plan_and_status_is_rows_alone(finished):
    for words in (["plan", finished / "c.yaml"], ["status", finished / "run"]):
        done = difflab(*words, "--json")
        assert all("generation" in json.loads(line) for line in done.stdout.splitlines())
        assert "all 40 images are read" in done.stderr

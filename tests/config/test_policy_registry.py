from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from difflab import config as configs
from difflab import policies
from difflab.config.policy_registry import KNOWN, policy
from difflab.core.errors import ConfigError
from difflab.policies.interface import Policy

BASE = {"model": {"family": "memoriser"}, "generations": 3}


def config(*entries):
    return configs.parse({**BASE, "policies": list(entries)})


def test_entries_are_mappings_or_names_and_come_back_with_every_field():
    read = config("unflagged", {"policy": "unflagged", "first": 2})
    assert [own.first for own in read.policies] == [0, 2]
    assert configs.flat(read)["policies"] == [
        {"policy": "unflagged", "first": 0, "last": None},
        {"policy": "unflagged", "first": 2, "last": None},
    ]
    assert configs.parse(read.model_dump(mode="json")) == read


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("unflaged", "'unflaged' is unknown; did you mean 'unflagged'"),
        ("zzz", "known: .*unflagged"),
        ({"policy": "unflagged", "frist": 1}, "unknown key 'frist'; did you mean 'first'"),
        ({"policy": "unflagged", "first": -1}, "'first'.*greater than or equal to 0"),
        ({"policy": 3}, "every entry must be a mapping"),
        (7, "every entry must be a mapping"),
    ],
)
def test_a_wrong_entry_is_named(entry, message):
    with pytest.raises(ConfigError, match=message):
        config(entry)


def test_a_new_policy_is_one_class_and_its_recipe_is_in_the_run(monkeypatch):
    monkeypatch.setattr("difflab.config.policy_registry.KNOWN", KNOWN)

    @policy("first_half")
    class FirstHalf(Policy):
        """The first half is kept."""

        def select(self, at, candidates):
            return [None if i < len(candidates) // 2 else "second half" for i in range(len(candidates))]

    try:
        plain, halved = config(), config("first_half")
        assert configs.recipe_of(plain) != configs.recipe_of(halved)
        assert halved.policies[0].acts("select", 0) and not halved.policies[0].acts("weights", 0)
        with pytest.raises(ValueError, match="defined twice"):
            policy("first_half")(type("Other", (Policy,), {"__annotations__": {}}))
    finally:
        del KNOWN["first_half"]


def test_every_policy_says_what_it_is_and_every_field_what_it_does():
    for name, kind in policies.known().items():
        assert len((kind.__doc__ or "").strip()) > 20, name
        for field, about in kind.model_fields.items():
            assert len(about.description or "") > 10, f"{name}.{field}"


def install(folder: Path, module: str, name: str = "halving") -> None:
    """An installed distribution as pip leaves one in site-packages: a module, and the entry point to it."""
    (folder / f"{name}_policies.py").write_text(module)
    about = folder / f"{name}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[difflab.policies]\n{name} = {name}_policies\n")


def python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A new Python process in which the packages of `folder` are installed."""
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); "
    command = [sys.executable, "-c", start + words[0], *words[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


DIFFLAB = "from difflab.cli.main import main; sys.exit(main(sys.argv[1:]))"
HALF = '''
from pydantic import Field

from difflab.policies import Policy, policy


@policy("first_part")
class FirstPart(Policy):
    """Keeps the first samples of each generation."""

    count: int = Field(ge=1, description="How many samples are kept.")

    def select(self, at, candidates):
        return [None if i < self.count else "later" for i in range(len(candidates))]
'''
CHAIN = """
model: {family: gaussian}
data: {source: exact, train_size: 20}
generations: 1
sample: {count: 20}
policies: [{policy: first_part, count: 15}]
"""


def test_a_config_uses_the_policy_of_another_installed_package(tmp_path: Path) -> None:
    install(tmp_path, HALF)
    (tmp_path / "chain.yaml").write_text(CHAIN)
    command = ("run", str(tmp_path / "chain.yaml"), "--out", str(tmp_path / "run"))
    done = python(tmp_path, DIFFLAB, *command)
    assert done.returncode == 0, done.stderr
    reasons = pq.read_table(tmp_path / "run" / "gen-000" / "selected.parquet")["reason"].to_pylist()
    assert reasons == [None] * 15 + ["later"] * 5


@pytest.mark.parametrize(
    ("module", "why"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        (
            HALF.replace("first_part", "guard"),
            "ValueError: policy 'guard' is defined twice: Guard and FirstPart",
        ),
    ],
    ids=["a missing module", "a name that is taken"],
)
def test_a_package_whose_policies_cannot_be_imported_is_named_in_one_line(
    tmp_path: Path, module: str, why: str
) -> None:
    install(tmp_path, module, "broken")
    done = python(tmp_path, DIFFLAB, "policies")
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        f"difflab: error: the policies of the installed package broken cannot be imported: {why}"
    ]

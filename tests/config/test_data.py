"""The section `data`: the audit of a source, and its content in the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from difflab.config import Data, parse, recipe_of
from difflab.config.data import audit_content, audit_files
from difflab.core.errors import ConfigError
from difflab.runs.record import recipe_hash


def config(**data: Any) -> Any:
    return parse({"data": {"source": "imagefolder:mine", **data}, "model": {"family": "memoriser"}})


def test_the_recipe_has_the_content_of_the_audit_and_not_its_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("images.jsonl", "audit.json"):
            (tmp_path / name / file).write_text(file)
    of_folder, of_file = config(audit=str(tmp_path / "a")), config(audit=str(tmp_path / "b" / "audit.json"))
    assert recipe_hash(of_folder) == recipe_hash(of_file) != recipe_hash(config())
    assert "data.audit" not in recipe_of(of_folder) and len(of_folder.data.audit_content) == 12
    (tmp_path / "a" / "images.jsonl").write_text("edited")
    assert recipe_hash(config(audit=str(tmp_path / "a"))) != recipe_hash(of_folder)
    kept = config(audit="moved away", audit_content=of_folder.data.audit_content)  # a stored run
    assert recipe_hash(kept) == recipe_hash(of_folder)


def test_without_an_audit_the_recipe_is_that_of_older_versions() -> None:
    assert not [key for key in recipe_of(config()) if "audit" in key]
    guard = {"policy": "guard", "max_synthetic_fraction": 0.5}
    made = parse({"model": {"family": "memoriser"}, "policies": [guard]})
    assert "max_unknown_fraction" not in recipe_of(made)["policies"][0]


def test_a_lab_with_an_audit_of_its_own_has_its_content(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for file in ("images.jsonl", "audit.json"):
            (tmp_path / name / file).write_text(name)
    audits = [{"data.audit": str(tmp_path / name)} for name in ("a", "b")]
    raw = {
        "data": {"source": "imagefolder:mine", "audit": str(tmp_path / "a")},
        "model": {"family": "memoriser"},
        "ecosystem": {"labs": 2, "overrides": audits},
    }
    assert [lab.data.audit_content for lab in parse(raw).labs()] == [
        audit_content(tmp_path / name) for name in ("a", "b")
    ]


def test_files_of_an_audit() -> None:
    assert audit_files("x") == audit_files("x/audit.json") == (Path("x/images.jsonl"), Path("x/audit.json"))
    assert audit_content("nowhere") is None and Data().audit_content is None


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"audit": "x", "source": "digits"}, "audit is for your own images"),
        ({"audit": "x", "provenance": "trust"}, "audit has no effect with provenance=trust"),
        ({"audit_layers": ["watermark"]}, "no effect without audit"),
        ({"audit": "x", "audit_layers": []}, "at least 1 item"),
        ({"audit": "x", "audit_layers": ["metadata"]}, "declared synthetic"),
        ({"audit": 3}, "valid string"),
    ],
)
def test_bad_input(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**data)

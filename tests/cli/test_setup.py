"""presets, schema, pretrain and policies, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from cli_runs import (
    CONFIGS,
    DIGITS,
)

from difflab.cli.main import main
from difflab.config import presets

ROOT = Path(__file__).parents[2]


def test_the_schema_accepts_the_configs_and_refuses_others(call):
    _, out, _ = call("schema")
    schema = json.loads(out)
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    for path in sorted(CONFIGS.glob("*.yaml")):
        validator(schema).validate(yaml.safe_load(path.read_text()))
    config = yaml.safe_load(DIGITS.read_text())
    for wrong in (
        {"colour": 1},
        {"generations": -1},
        {"train": {"batch_size": "many"}},
        {"model": {"family": "gan"}},
    ):
        with pytest.raises(jsonschema.ValidationError):
            validator(schema).validate({**config, **wrong})


@pytest.mark.parametrize("clip", [False, True])
def test_pretrain_says_in_json_where_the_model_is(clip, monkeypatch, capsys):
    from difflab.pretraining import clip as pretrain_clip
    from difflab.pretraining import stable_diffusion as pretrain

    seen = {}

    def trained(config: Any, out: Path, report: Any, *_: Any) -> Path:
        seen["quiet"] = report.quiet
        return out / "model"

    monkeypatch.setattr(pretrain, "pretrain", trained)
    monkeypatch.setattr(pretrain_clip, "pretrain_clip", trained)
    path = ROOT / "configs" / "assets" / ("tiny-clip.yaml" if clip else "tiny-sd.yaml")
    kind = "open_clip" if clip else "diffusers"
    assert main(["pretrain", str(path), "--out", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"kind": kind, "folder": "x/model"} and seen == {
        "quiet": True
    }
    assert main(["pretrain", str(path), "--out", "x"]) == 0
    assert capsys.readouterr().out == f"{'an' if clip else 'a'} {kind} folder: x/model\n" and seen == {
        "quiet": False
    }


def test_presets_are_listed_by_group_or_shown(call, refused):
    code, out, _ = call("presets", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and {row["preset"] for row in rows} == set(presets.names())
    assert all(row["about"] and Path(row["file"]).is_file() for row in rows)
    _, out, _ = call("presets", "papers", "--json")
    assert {json.loads(line)["group"] for line in out.splitlines()} == {"papers"}
    assert call("presets", "show", "sweeps/regimes")[1] == (CONFIGS / "sweeps" / "regimes.yaml").read_text()
    assert "name one preset" in refused("presets", "show")
    assert "did you mean emoji?" in refused("presets", "show", "emojj")
    assert "is no group of presets; groups: papers, sweeps" in refused("presets", "nonsense")


def test_lines_of_presets_fit_80_columns(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = call("presets")
    assert max(map(len, out.splitlines())) <= 80


def test_a_policy_is_explained_with_its_fields(call):
    _, out, _ = call("policies", "guard")
    assert out.startswith("guard (") and "source: " in out and "max_synthetic_fraction" in out
    _, out, _ = call("policies", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert {"guard", "unflagged"} <= {row["policy"] for row in rows} and all(row["schema"] for row in rows)

"""Scripts in findings/ keep their form. They are not run: they install packages."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

FINDINGS = Path(__file__).parents[1] / "findings"
SCRIPTS = sorted(FINDINGS.glob("*.sh"))


def test_every_script_is_in_the_table():
    listed = re.findall(r"\]\(([\w-]+\.sh)\)", (FINDINGS / "README.md").read_text(encoding="utf-8"))
    assert listed == [script.name for script in SCRIPTS] and SCRIPTS


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_keeps_the_rules(script):
    text = script.read_text(encoding="utf-8")
    head = text.split("set -euo pipefail\n")[0].splitlines()
    assert head[0] == "#!/usr/bin/env bash" and all(line.startswith("#") for line in head)
    output = head.index("# Output seen:")
    assert len(head) > output + 1, "the head shows no output"
    assert "mktemp -d" in text and "trap 'rm -rf \"$folder\"' EXIT" in text
    [packages] = re.findall(r"pip\" install -qq --disable-pip-version-check (.+)", text)
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", package) for package in packages.split())
    assert "difflab" not in text.replace("without difflab", "") and not re.search(
        r"https?://|--index|--find-links|/(work|home|tmp)/", text
    )
    assert "assert " in text
    subprocess.run(["bash", "-n", script], check=True, capture_output=True)

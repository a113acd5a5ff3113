"""The scripts of `difflab completion`, read by a real bash and asked what it would complete."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from difflab.cli.main import main

ROOT = Path(__file__).parents[2]
ASK = r"""
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
how=$(complete -p difflab) && function=${how#*-F } && ${function%% *} 2>/dev/null
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory) -> dict[str, Path]:
    """One script per shell."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))  # presets are found from any folder
        for shell in ("bash", "zsh", "tcsh"):
            with pytest.MonkeyPatch.context() as inner:
                lines: list[str] = []
                inner.setattr("builtins.print", lambda text="", lines=lines, **_: lines.append(str(text)))
                assert main(["completion", shell]) == 0
            made[shell] = tmp_path_factory.mktemp("completion") / shell
            made[shell].write_text("\n".join(lines))
    return made


@pytest.fixture
def complete(scripts):
    """What bash offers for the last of these words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")

    def ask(*words: str) -> list[str]:
        asked = subprocess.run(
            [bash, "-c", ASK, "bash", scripts["bash"], "difflab", *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=30,
        )
        assert asked.returncode == 0 and asked.stderr == ""
        return sorted(line for line in asked.stdout.splitlines() if line)

    return ask


def test_commands(complete):
    assert complete("pol") == ["policies"]
    assert complete("compare") == ["compare", "compare-runs"]
    assert {"run", "doctor", "completion"} <= set(complete(""))


def test_options(complete):
    assert complete("compare", "--extr") == ["--extractors"]
    assert {"--json", "--out", "--help"} <= set(complete("run", "--"))
    assert complete("completion", "") == ["bash", "tcsh", "zsh"]


def test_files_and_folders(complete):
    assert "configs/digits.yaml" in complete("run", "configs/dig")
    assert (
        complete("run", "configs/digits.yaml", "--out", "conf") == ["configs"]
        and complete("run", "READ") == []
    )
    assert "configs" in complete("status", "co") and complete("status", "READ") == []


def test_names(complete):
    assert complete("policies", "gua") == ["guard"]
    assert complete("compare", "a", "b", "--metrics", "rec") == ["recall"]
    assert complete("compare", "a", "b", "--metrics", "recall", "tail") == ["tail_recall"]
    assert "A1-variance" in complete("theory", "A1")
    assert "fresh-limit" in complete("claims", "fresh")


def test_presets(complete):
    assert complete("run", "emo") == ["emoji"]
    assert complete("run", "papers/mad-f") == ["papers/mad-fresh", "papers/mad-fs"]
    assert complete("sweep", "regi") == ["regimes"] and "digits" not in complete("sweep", "")
    assert complete("pretrain", "tiny-s") == ["tiny-sd"]
    assert complete("doctor", "sd15") == ["sd15-full", "sd15-lora"]
    assert complete("presets", "sho") == ["show"] and complete("presets", "show", "emo") == ["emoji"]
    assert complete("measure", "runs/x", "recal") == ["recall"]


@pytest.mark.parametrize("shell", ["zsh", "tcsh"])
def test_other_shells(scripts, shell):
    text = scripts[shell].read_text()
    assert all(word in text for word in ("compare-runs", "guard", "recall", "fresh-limit", "papers/mad-fs"))
    assert {"zsh": "#compdef difflab", "tcsh": "complete difflab"}[shell] in text
    if found := shutil.which(shell):
        assert subprocess.run([found, "-n", scripts[shell]], capture_output=True).returncode == 0

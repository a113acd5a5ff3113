"""The bundled presets: every file loads, every command in a comment goes with it, and the launch files are what accelerate reads."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file

from difflab.config import Config, load
from difflab.loop.checks import check
from difflab.loop.mix import draw_rows
from difflab.loop.regimes import check_possible, expected, pools
from difflab.runs.sizes import fresh_needed

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
OTHERS = [
    p for folder in ("assets", "accelerate", "sweeps", "claims") for p in (CONFIGS / folder).glob("*.yaml")
]  # not chains
CHAINS = sorted(set(CONFIGS.rglob("*.yaml")) - set(OTHERS))
LAUNCH = sorted((CONFIGS / "accelerate").glob("*.yaml"))
PAPERS = {
    "mad-fs": "2307.01850", "mad-aug": "2307.01850", "mad-fresh": "2307.01850", "bertrand": "2310.00429", "shumailov": "2305.17493",
    "gerst-rep": "2404.01413", "gerst-acc": "2404.01413", "kazdan-sub": "2410.16713", "shi-last": "2509.16499", "shi-acc": "2509.16499",
    "yoon-like": "2407.17493", "bohacek": "2311.12202", "ferbach": "2407.09499", "sims": "2408.16333", "neon": "2510.03597",
    "gillman": "2402.07087", "taori": "2209.03942", "hataya": "2211.08095", "hintze": None, "qiao": "2606.13732",
}  # fmt: skip
SIZES = {  # images of the sources that the presets and their offline commands name; of the hub sets those of the split `train`
    "digits": 1797, "mnist5k": 5000, "emoji": 5663,
    "hub:ylecun/mnist": 60000, "hub:uoft-cs/cifar10": 50000, "hub:flwrlabs/celeba": 162770, "hub:lambdalabs/naruto-blip-captions": 1221,
}  # fmt: skip
PATH = re.compile(r"configs/\S+\.yaml")


def name_of(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def comment(path: Path) -> str:
    """The comment at the head of a file, without its marks."""
    lines = path.read_text().splitlines()
    end = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines[:end])


def commands(path: Path) -> list[list[str]]:
    """The `difflab run` commands in the head of a file, as words from the config's path on."""
    text = re.sub(r"\\\n\s*", " ", comment(path))
    lines = [
        line[found.end() :]
        for line in text.splitlines()
        if (found := re.search(r"\bdifflab run (?=configs/)", line))
    ]
    return [shlex.split(line, comments=True) for line in lines]


def given(words: list[str]) -> Config:
    """The config that a command runs."""
    words = words[: words.index("--out")] if "--out" in words else words
    return load(ROOT / words[0], words[1:])


def train_size(config: Config) -> int | None:
    """Images in the train split, None where the source's size is not known."""
    if config.exact:
        n0 = config.data.train_size or 0
        return n0 + fresh_needed(config, n0)
    size = SIZES.get(config.data.source)
    if size is None:
        return None
    size = min(size, config.data.limit or size)
    return size - round(config.data.held_out * size)


def check_counts(config: Config) -> None:
    """What ingest and the measures would find out after the data are there."""
    n = train_size(config)
    if n is None:
        return
    check_possible(config, n)
    held_out = round(config.data.held_out * n / (1 - config.data.held_out))
    most = min(n, held_out, *(config.sample.count_of(t) for t in range(config.generations + 1)))
    assert config.exact or (config.measure.count or most) <= most


@pytest.mark.parametrize("path", CHAINS, ids=name_of)
def test_every_preset_loads_and_could_start(path):
    config = load(path)
    assert config.name == path.stem
    jsonschema.validate(yaml.safe_load(path.read_text()), Config.model_json_schema())
    if config.train.precision != "fp16":  # which is refused where there is no GPU
        check(config)
    check_counts(config)


@pytest.mark.parametrize("path", CHAINS, ids=name_of)
def test_every_command_in_a_comment_is_of_its_file_and_could_start(path):
    for words in commands(path):
        assert ROOT / words[0] == path
        config = given(words)
        if config.train.precision != "fp16":
            check(config)
        check_counts(config)


@pytest.mark.parametrize("path", [*CHAINS, *LAUNCH, *(CONFIGS / "slurm").iterdir()], ids=name_of)
def test_every_file_that_a_comment_names_is_there(path):
    named = PATH.findall(path.read_text())
    assert [name for name in named if not (ROOT / name).is_file()] == []


# --------------------------------------------------------------------------------------------------- papers
def test_every_paper_has_its_preset_and_no_preset_is_without_a_paper():
    assert {p.stem for p in (CONFIGS / "papers").iterdir()} == set(PAPERS)


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_is_named_with_what_is_known_of_it_and_what_is_not_expressed(name):
    said = comment(CONFIGS / "papers" / f"{name}.yaml")
    first = re.search(r"arXiv (\d{4}\.\d{5})", said)
    assert (first.group(1) if first else None) == PAPERS[name]
    flat = " ".join(said.split())
    assert re.search(r"Read in the primary (text|code)|Second-hand|From memory, unverified", flat)
    assert "Ours:" in flat or " ours" in flat
    assert "ot expressed here" in flat or "all expressed here" in flat
    assert "RESEARCH" not in said and "issue" not in said


@pytest.mark.parametrize(
    "name", [n for n in PAPERS if load(CONFIGS / "papers" / f"{n}.yaml").data.source != "exact"]
)
def test_every_image_paper_has_a_command_that_needs_no_hub_and_no_gpu(name):
    path = CONFIGS / "papers" / f"{name}.yaml"
    offline = [
        shlex.split(line.removeprefix("Offline: difflab run "))
        for line in comment(path).splitlines()
        if line.startswith("Offline: ")
    ]
    assert len(offline) == 1
    config = given(offline[0])
    check(config)
    assert config.data.source in ("digits", "mnist5k", "emoji")
    assert set(config.measure.extractors) <= {"pixels", "texture", "fitted"}
    assert config.train.optimizer == "adamw"
    assert (
        config.train.precision == config.sample.precision == "no"
    )  # a CPU may take 50 times as long at 16 bits
    assert (
        getattr(config.model, "base", "tiny-sd") == "tiny-sd"
        and max(getattr(config.model, "channels", [0])) <= 192
    )
    generations = range(config.generations + 1)
    passes = 3 * config.train.images_seen * len(generations) + config.sample.steps * sum(
        config.sample.count_of(t) for t in generations
    )
    assert passes < 2e6  # a night on two cores, not a month


def drawn(name: str, generation: int) -> dict[tuple[str, int], int]:
    """Rows of a training set by pool and generation."""
    config = load(CONFIGS / "papers" / f"{name}.yaml")
    n = train_size(config)
    assert n is not None
    kept = [np.arange(config.sample.count_of(t)) for t in range(generation)]
    rows = draw_rows(*pools(config, generation, n, kept), ("mix", 0, generation), 1)
    pairs = list(zip(rows["pool"].to_pylist(), rows["generation"].to_pylist(), strict=True))
    return {pair: pairs.count(pair) for pair in set(pairs)}


def test_training_sets_are_those_of_the_papers():
    assert drawn("mad-fs", 3) == {("synthetic", 2): 50000}
    assert drawn("mad-aug", 3) == {("fixed_real", -1): 50000, ("synthetic", 2): 50000}
    assert drawn("mad-fresh", 3) == {("fresh_real", -1): 2000, ("synthetic", 2): 2000}
    assert drawn("bertrand", 3) == {
        ("fixed_real", -1): 40000,
        ("synthetic", 2): 40000,
    }  # lambda = 1: all real, as many samples
    assert drawn("gillman", 3) == {("fixed_real", -1): 12000, ("synthetic", 2): 12000}
    assert drawn("gerst-rep", 3) == {("synthetic", 2): 10000}
    assert drawn("gerst-acc", 3) == {("fixed_real", -1): 10000, **{("synthetic", t): 10000 for t in range(3)}}
    assert drawn("shi-last", 3) == {("synthetic", 2): 32768}
    assert drawn("shi-acc", 3) == {("fixed_real", -1): 8192, **{("synthetic", t): 8192 for t in range(3)}}
    assert drawn("yoon-like", 3) == {("synthetic", 2): 833}
    assert drawn("neon", 1) == {("synthetic", 0): 1000}
    assert drawn("taori", 3) == {("fresh_real", -1): 1000, ("synthetic", 2): 4000}
    assert sum(drawn("kazdan-sub", 3).values()) == 100


def test_what_the_papers_do_with_samples_and_weights_is_done_by_policies():
    used = {
        name: [own.policy for own in load(CONFIGS / "papers" / f"{name}.yaml").policies] for name in PAPERS
    }
    assert {name: own for name, own in used.items() if own} == {
        "ferbach": ["luce"],
        "qiao": ["top_share"],
        "neon": ["retraining", "neon"],
        "sims": ["retraining", "sims"],
        "gillman": ["retraining"],
        "bertrand": ["retraining"],
        "bohacek": ["healing"],
    }
    ferbach, qiao, neon = (load(CONFIGS / "papers" / f"{name}.yaml") for name in ("ferbach", "qiao", "neon"))
    assert expected(ferbach, 0) == 2500 and 1 / ferbach.policies[0].temperature == 5
    assert expected(qiao, 0) == qiao.sample.count_of(0) / 2 == 2 * train_set_size(qiao)
    assert neon.policies[0].images_seen < 0.01 * neon.train.images_seen


def train_set_size(config: Config) -> int:
    return config.regime.set_size or config.data.train_size or 0


def test_the_two_arms_of_a_paper_differ_in_the_regime_only():
    for one, other in (("gerst-rep", "gerst-acc"), ("shi-last", "shi-acc")):
        a, b = (
            load(CONFIGS / "papers" / f"{n}.yaml").model_dump(exclude={"name", "regime"})
            for n in (one, other)
        )
        assert a == b


def test_guidance_is_one_over_lambda():
    for name in ("mad-fs", "mad-aug", "mad-fresh"):
        assert load(CONFIGS / "papers" / f"{name}.yaml").sample.guidance_scale == 1 / 0.8
    assert load(CONFIGS / "papers" / "gillman.yaml").sample.guidance_scale == 1 + 0.5


def test_a_chain_from_the_base_starts_every_generation_there():
    for path in [*CONFIGS.glob("sd*.yaml"), CONFIGS / "papers" / "yoon-like.yaml"]:
        config = load(path)
        assert config.train.start_from == "base" and config.regime.name == "replace"
        assert config.sample.shard_size % config.sample.batch_size == 0


# --------------------------------------------------------------------------------------------------- launching
@pytest.mark.parametrize("path", LAUNCH, ids=name_of)
def test_accelerate_reads_the_launch_file_and_leaves_precision_to_the_config(path):
    read = load_config_from_file(str(path))
    assert isinstance(read, ClusterConfig)
    assert read.mixed_precision == "no" and read.compute_environment.value == "LOCAL_MACHINE"
    assert read.num_processes > 1 and read.num_processes % read.num_machines == 0
    known = {f"fsdp_{key.removeprefix('fsdp_')}" for key in read.fsdp_config}
    assert known <= launch_options()


def launch_options() -> set[str]:
    from accelerate.commands.launch import launch_command_parser

    return {action.dest for action in launch_command_parser()._actions}


def test_the_launch_files_are_the_four_kinds_of_start():
    kinds = {p.stem: yaml.safe_load(p.read_text()) for p in LAUNCH}
    assert set(kinds) == {"ddp", "ddp-nodes", "fsdp", "cpu"}
    assert {name: k["distributed_type"] for name, k in kinds.items()} == {
        n: "FSDP" if n == "fsdp" else "MULTI_GPU" for n in kinds
    }
    assert kinds["ddp-nodes"]["num_machines"] == 2 and kinds["fsdp"]["fsdp_config"]["fsdp_version"] == 2


def test_batches_are_large_enough_for_every_launch_file():
    most = max(load_config_from_file(str(p)).num_processes for p in LAUNCH)
    assert [p.name for p in CONFIGS.glob("sd*.yaml") if load(p).train.batch_size < most] == []


def test_the_slurm_script_is_bash_and_names_launch_options_that_exist():
    path = CONFIGS / "slurm" / "nodes.sbatch"
    subprocess.run(["bash", "-n", str(path)], check=True)
    launch = path.read_text().split("accelerate launch", 1)[1].split("-m difflab")[0]
    assert set(re.findall(r"--(\w+)", launch)) <= launch_options()

from __future__ import annotations

from typing import Any

import pytest
import yaml
from config_files import merged, written

from difflab.config import load, parse
from difflab.core.errors import ConfigError

DIGITS: dict[str, Any] = {"model": {"family": "pixel-mlp"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a mapping of keys to values"),
        ("- 1\n- 2\n", "is not a mapping of keys to values"),
        ("just words", "is not a mapping of keys to values"),
        ("model: {", "is not valid YAML"),
        ("a:\tb: c", "is not valid YAML"),
        ("train: {batch_size: 1}\ntrain: {batch_size: 2}\n", "'train' is given twice"),
        ("train:\n  batch_size: 1\n  batch_size: 1\n", "'batch_size' is given twice"),
        ("name: !!python/object/apply:os.system ['echo owned']\n", "python/object/apply"),
        ("name: !!python/name:os.system\n", "is not valid YAML"),
        ("? [a, b]\n: 1\n", "is not valid YAML"),
        ("{}", "'model' is missing"),
        ("model: 3", "'model'"),
        ("model: {}", "known families: categorical, flow, gaussian, memoriser"),
        ("model: {family: gausian}", "'gausian'; known families"),
        ("1: 2\nmodel: {family: memoriser}", "Keys should be strings"),
    ],
)
def test_unreadable_yaml_is_refused_and_the_file_is_named(tmp_path, text, said):
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_yaml_objects_are_never_built(tmp_path):
    marker = tmp_path / "owned"
    path = written(
        tmp_path,
        f"name: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{marker}']]\n",
    )
    with pytest.raises(ConfigError):
        load(path)
    with pytest.raises(ConfigError, match="not valid YAML"):
        load(written(tmp_path, yaml.safe_dump(DIGITS)), ["name=!!python/object/apply:os.getcwd []"])
    assert not marker.exists()


@pytest.mark.parametrize("what", ["missing", "folder", "binary"])
def test_a_file_that_cannot_be_read_is_a_config_error(tmp_path, what):
    path = tmp_path / "x.yaml"
    if what == "folder":
        path.mkdir()
    if what == "binary":
        path.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ConfigError, match=r"config .*x\.yaml.* cannot be read"):
        load(path)


def test_numbers_in_exponent_form_are_numbers(tmp_path):
    text = "model: {family: pixel-mlp}\ntrain: {learning_rate: 1e-3}\nsample: {scheduler_options: {beta_start: 5e-5, clip: 1E2}}\n"
    config = load(written(tmp_path, text))
    assert config.train.learning_rate == 1e-3
    assert config.sample.scheduler_options == {"beta_start": 5e-5, "clip": 100.0}


def test_a_bare_no_means_no_mixed_precision(tmp_path):
    path = written(tmp_path, "model: {family: pixel-mlp}\ntrain: {precision: no}\nsample: {precision: no}\n")
    assert load(path).train.precision == load(path).sample.precision == "no"
    assert load(path, ["train.precision=bf16"]).train.precision == "bf16"
    with pytest.raises(ConfigError, match=r"train\.precision"):
        load(path, ["train.precision=yes"])


def test_overrides_take_yaml_values_at_any_depth(tmp_path):
    path = written(tmp_path, yaml.safe_dump(merged(DIGITS, data={"limit": 100})))
    asked = [
        "train.learning_rate=1e-3",
        "sample.count=[50, 60]",
        "data.limit=null",
        "model.conditional=false",
        "data.tail.kind=zipf",
        "name=other",
        "sample.scheduler_options={beta_start: 1e-4}",
        "measure.extractors=[]",
        "sample.scheduler_options.eta=0.5",
        "seed=1",
        "seed=2",
    ]
    config = load(path, asked)
    assert config.train.learning_rate == 1e-3
    assert config.sample.count == [50, 60]
    assert config.data.limit is None and config.data.tail.kind == "zipf"
    assert not config.conditional and config.name == "other" and config.measure.extractors == []
    assert config.sample.scheduler_options == {"beta_start": 1e-4, "eta": 0.5}
    assert config.seed == 2


def test_an_override_may_hold_an_equals_sign(tmp_path):
    assert (
        load(written(tmp_path, yaml.safe_dump(DIGITS)), ["data.source=imagefolder:/a=b"]).data.source
        == "imagefolder:/a=b"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.batch_size", "not of the form key=value"),
        ("=3", "not of the form key=value"),
        ("", "not of the form key=value"),
        ("train.batch_size=", "'train.batch_size'"),
        ("train.=3", "unknown key 'train.'"),
        ("seed.deep=3", "seed is not a section"),
        ("name=[", "not valid YAML"),
        ("train.batchsize=3", "did you mean 'batch_size'"),
        ("trian.batch_size=3", "did you mean 'train'"),
        ("train=3", "'train'"),
    ],
)
def test_a_bad_override_is_refused(tmp_path, override, said):
    path = written(tmp_path, yaml.safe_dump({**DIGITS, "seed": 3}))
    with pytest.raises(ConfigError) as caught:
        load(path, [override])
    assert said in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path, encoding):
    raw = {**DIGITS, "data": {"source": "imagefolder:/é"}}
    (tmp_path / "config.yaml").write_bytes(yaml.safe_dump(raw, allow_unicode=True).encode(encoding))
    assert load(tmp_path / "config.yaml").data.source == "imagefolder:/é"
    (tmp_path / "config.yaml").write_bytes(b"name: a\nseed: \xff")
    with pytest.raises(ConfigError, match=r"config.yaml, line 2: cannot be read as UTF-8"):
        load(tmp_path / "config.yaml")


def test_the_record_of_a_run_is_a_config_too(tmp_path):
    config = parse(DIGITS | {"generations": 3})
    record = tmp_path / "run.yaml"
    record.write_text(
        yaml.safe_dump({"config": config.model_dump(mode="json"), "recipe": "abc", "versions": {}})
    )
    assert load(record) == config and load(record, ["generations=2"]).generations == 2

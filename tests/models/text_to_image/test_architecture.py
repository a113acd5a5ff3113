"""What holds for every architecture, on tiny random folders: difflab computes what the folder's own pipeline computes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from parts import CAPTIONS
from tiny_bases import TinyBase, bases, pictures

from difflab.config import Sample, Train
from difflab.core.errors import ConfigError
from difflab.models.text_to_image.architecture import falling, joined, linear_shift, padded, unpadded

pytestmark = tiny.LIBRARIES
ALL = pytest.mark.parametrize("base", bases(), ids=lambda base: base.name)
SEEDS = [20, 21, 22]
ROWS = [2, 0, 1]
PROMPTS = [CAPTIONS[row] for row in ROWS]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {base.name: base.write(root / base.name) for base in bases()}


@pytest.fixture(scope="module")
def pipelines(folders) -> Callable[[TinyBase], Any]:
    """The folder in plain diffusers, opened once for all tests that leave it as it is."""
    return cache(lambda base: base.pipeline(folders[base.name]))


def sampling(base: TinyBase, steps: int, scale: float) -> Sample:
    return Sample(scheduler=base.scheduler, steps=steps, guidance_scale=scale)


@ALL
@torch.no_grad()
def test_one_euler_step_is_that_of_the_pipeline(base, folders, pipelines):
    """x - sigma v of `predict`, decoded, is what the pipeline paints from the same noise: packing, ids, sign, time and normalisation are right."""
    if base.family != "flow":
        pytest.skip("not flow matching")
    model, how = base.model(folders[base.name]), sampling(base, 1, base.unguided)
    model.prepare_sampling(how, "cpu")
    scheduler = model.scheduler(how)
    x = torch.stack(
        [torch.randn(model.drawn, generator=torch.Generator().manual_seed(seed)) for seed in SEEDS]
    )
    velocity = model.predict(model.net, x, scheduler.timesteps[0].expand(3), torch.tensor(ROWS), 1.0)
    assert float(scheduler.sigmas[1]) == 0
    ours = model.finish(x - scheduler.sigmas[0] * velocity).clamp(-1, 1).permute(0, 2, 3, 1).numpy()
    theirs = pictures(base, pipelines(base), PROMPTS, SEEDS, 1, base.unguided)
    print(base.name, "spread", theirs.std(), "levels", np.abs((ours + 1) * 127.5 - theirs).max())
    assert theirs.std() > 10
    np.testing.assert_allclose((ours + 1) * 127.5, theirs, atol=1.0)


@ALL
def test_four_steps_with_guidance_are_those_of_the_pipeline(base, folders, pipelines):
    model, pipe = base.model(folders[base.name]), pipelines(base)
    drawn: dict[float, Any] = {}
    for scale in [base.unguided] if base.scale is None else [base.unguided, base.scale]:
        how = sampling(base, 4, scale)
        model.prepare_sampling(how, "cpu")
        drawn[scale] = model.sample(np.array(ROWS), SEEDS, how).astype(int)
        theirs = pictures(base, pipe, PROMPTS, SEEDS, 4, scale).astype(int)
        print(base.name, scale, "levels", np.abs(drawn[scale] - theirs).max(), "spread", theirs.std())
        assert theirs.std() > 10 and np.abs(drawn[scale] - theirs).max() <= 1
    if base.scale is not None:  # guidance acts
        assert np.abs(drawn[base.scale] - drawn[base.unguided]).mean() > 1


@ALL
def test_the_prompt_matters(base, folders):
    """A folder whose pictures ignore the prompt would hide a wrong text."""
    model, how = base.model(folders[base.name]), sampling(base, 2, base.unguided)
    model.check_sampling(how)  # as a chain does before anything is trained
    model.prepare_sampling(how, "cpu")
    first, second = (model.sample(np.array([row] * 2), [5, 6], how).astype(int) for row in (0, 2))
    print(base.name, np.abs(first - second).mean())
    assert np.abs(first - second).mean() > 0.3


@ALL
def test_denormalise_takes_back_what_normalise_did(base, folders):
    model = base.model(folders[base.name])
    architecture = model.architecture
    assert architecture.guidance in architecture.guidances  # what the table in the docs says
    mean, std = model.encoder("cpu")(torch.from_numpy(tiny.images(4, base.side))).chunk(2, dim=1)
    x = architecture.normalise(mean)
    assert x.shape[1:] == model.drawn and (std >= 0).all() and x.std() > 0.01
    torch.testing.assert_close(architecture.denormalise(x), mean, rtol=1e-4, atol=1e-5)


@ALL
def test_a_few_steps_lower_the_loss(base, folders, tmp_path):
    """On fixed noise and times, before and after twelve steps on eight images."""
    model = base.model(folders[base.name])
    inputs = model.encoder("cpu")(torch.from_numpy(tiny.images(8, base.side)))
    train = Train()

    def loss(model: Any) -> float:
        model.prepare_training(train, "cpu")
        rng = torch.Generator().manual_seed(0)
        totals = []
        for _ in range(4):
            drawn = model.draws(inputs, torch.arange(8) % 4, slice(0, 8), 8, train, rng)
            with torch.no_grad():
                totals.append(float(model.error(model.net, **drawn).mean()))
        return sum(totals)

    before = loss(model)
    tiny.train(model, tmp_path, images_seen=96, learning_rate=4e-3, side=base.side)
    after = loss(model)
    print(base.name, before, after)
    assert after < 0.97 * before


@ALL
def test_a_lora_loads_in_the_pipeline_and_changes_its_pictures(base, folders, tmp_path):
    """The file that difflab writes, read by the plain pipeline, paints what difflab's model paints, and not what the base paints."""
    if base.lora is None:
        with pytest.raises(ConfigError, match=r"diffusers has no LoRA loader for .*; set model\.lora_rank=0"):
            base.model(folders[base.name], lora_rank=2)
        return
    model = base.model(folders[base.name], lora_rank=2, lora_targets=list(base.lora))
    tiny.train(model, tmp_path / "train", images_seen=32, learning_rate=6e-2, side=base.side)
    model.save(tmp_path / "lora")
    model.check_saved(tmp_path / "lora")
    how = sampling(base, 2, 1.0)
    model.prepare_sampling(how, "cpu")
    ours = model.sample(np.array(ROWS), SEEDS, how).astype(int)
    with model.as_base():
        of_base = model.sample(np.array(ROWS), SEEDS, how).astype(int)
    pipe = base.pipeline(folders[base.name])
    before = pictures(base, pipe, PROMPTS, SEEDS, 2, 1.0).astype(int)
    pipe.load_lora_weights(tmp_path / "lora")
    after = pictures(base, pipe, PROMPTS, SEEDS, 2, 1.0).astype(int)
    print(base.name, "changed by", np.abs(after - before).mean(), "levels", np.abs(ours - after).max())
    assert np.abs(ours - after).max() <= 1 and np.abs(of_base - before).max() <= 1
    assert np.abs(after - before).mean() > 0.3


@ALL
def test_a_network_for_other_latents_is_refused(base, folders, tmp_path):
    broken = shutil.copytree(folders[base.name], tmp_path / "broken")
    component = base.model(folders[base.name]).component
    file = broken / component / "config.json"
    tiny.amend(file, in_channels=json.loads(file.read_text())["in_channels"] + 1)
    with pytest.raises(ConfigError, match="in_channels is"):
        base.model(broken)


@ALL
def test_an_image_that_cannot_be_packed_is_refused_with_the_nearest_size(base, folders):
    odd = replace(base, side=base.side + 1)
    with pytest.raises(ConfigError, match=rf"data\.image_size={base.side + 1}.* is not a multiple of \d+"):
        odd.model(folders[base.name])


@ALL
def test_a_half_downloaded_network_is_refused(base, folders, tmp_path):
    """A network in several files, one of which is missing."""
    broken = shutil.copytree(folders[base.name], tmp_path / "broken")
    model = base.model(folders[base.name])
    shutil.rmtree(broken / model.component)
    model.backbone.save_pretrained(broken / model.component, max_shard_size="20KB")
    shards = sorted((broken / model.component).glob("*.safetensors"))
    shards[-1].unlink()
    assert len(shards) > 1
    with pytest.raises(ConfigError, match=r"lacks .*-of-.* the download is not complete: fetch it again"):
        base.model(broken)


def test_joined_pads_with_zeros():
    parts = [
        {
            "states": torch.ones(2, 3, 4),
            "mask": torch.ones(2, 3, dtype=torch.bool),
            "pooled": torch.ones(2, 5),
        },
        {
            "states": torch.ones(1, 6, 4),
            "mask": torch.ones(1, 6, dtype=torch.bool),
            "pooled": torch.ones(1, 5),
        },
    ]
    tables = joined(parts)
    assert (
        tables["states"].shape == (3, 6, 4)
        and tables["mask"].shape == (3, 6)
        and tables["pooled"].shape == (3, 5)
    )
    assert tables["mask"].sum(1).tolist() == [3, 3, 6] and tables["states"].sum() == 4 * 12
    assert tables["mask"].dtype == torch.bool


def test_unpadded_gives_back_the_embeddings_of_each_prompt():
    rng = torch.Generator().manual_seed(0)
    states = [torch.randn(1, length, 4, generator=rng) for length in (3, 6)]
    parts = [{"states": part, "mask": torch.ones(part.shape[:2], dtype=torch.bool)} for part in states]
    both = padded([part[0] for part in states])
    assert torch.equal(both["mask"], joined(parts)["mask"])
    assert torch.equal(both["states"], joined(parts)["states"])
    for got, wanted in zip(unpadded(joined(parts)), states, strict=True):
        assert torch.equal(got, wanted[0])
    assert [len(part) for part in unpadded({k: t.to("meta") for k, t in joined(parts).items()})] == [6, 6]


def test_shifts_are_those_of_diffusers():
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    settings = {"base_image_seq_len": 100, "max_image_seq_len": 900, "base_shift": 0.2, "max_shift": 0.9}
    assert linear_shift(settings, 321) == pytest.approx(calculate_shift(321, 100, 900, 0.2, 0.9))
    assert linear_shift({}, 1024) == pytest.approx(calculate_shift(1024))
    np.testing.assert_allclose(falling(7), np.linspace(1, 1 / 7, 7))

from __future__ import annotations

import subprocess
import sys

import numpy as np
import torch
from scipy import stats

from difflab.core.seeds import generator, image_seeds, numpy_generator, probe_seeds, seed_of


def test_a_seed_is_a_fixed_function_of_its_key():
    # Frozen: a change of these numbers changes every run that was ever made.
    assert [seed_of("sample", 0, 0, 1, 2), seed_of("a"), seed_of()] == [
        3805872159536457912,
        3947422127400296972,
        1665333220245342802,
    ]


def test_a_seed_is_the_same_in_another_process():
    code = "from difflab.core.seeds import seed_of; print(seed_of('mix', 3, 'é', 1.5, None))"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert int(out.stdout) == seed_of("mix", 3, "é", 1.5, None)


def test_seeds_fit_the_ledger_and_torch():
    seeds = [seed_of(i) for i in range(2000)]
    assert min(seeds) >= 0 and max(seeds) < 2**63 and max(seeds) > 2**62
    assert len(set(seeds)) == len(seeds)
    torch.Generator().manual_seed(max(seeds))


def test_numpy_numbers_give_the_seed_of_the_plain_number():
    assert seed_of("a", np.int64(5)) == seed_of("a", np.int32(5)) == seed_of("a", 5)
    assert seed_of(np.float64(0.5)) == seed_of(0.5)
    assert image_seeds(0, 0, 1, np.arange(3)) == image_seeds(0, 0, 1, range(3))


def test_different_keys_give_different_seeds():
    keys = [
        ("a", "b"),
        ("a, b",),
        ("ab",),
        ("a", "b", ""),
        ("b", "a"),
        (1,),
        ("1",),
        (1.0,),
        (None,),
        ("None",),
        (1, 23),
        (12, 3),
        ((1, 2),),
        (1, 2),
    ]
    assert len({seed_of(*key) for key in keys}) == len(keys)


def test_every_image_of_every_generation_lab_and_run_has_its_own_seed():
    seeds = [
        s
        for run in (0, 1)
        for lab in (0, 1)
        for g in (-1, 0, 1, 2)
        for s in image_seeds(run, lab, g, range(50))
    ]
    assert len(set(seeds)) == len(seeds) == 800
    assert image_seeds(0, 0, 1, range(50))[10:20] == image_seeds(
        0, 0, 1, range(10, 20)
    )  # no matter who draws which


def test_the_probe_has_the_same_seeds_in_every_generation_and_shares_none_with_samples():
    assert probe_seeds(3, 8)[:4] == probe_seeds(3, 4)
    assert not set(probe_seeds(3, 100)) & {s for g in range(-1, 5) for s in image_seeds(3, 0, g, range(100))}


def test_generators_repeat_and_differ_by_key():
    assert torch.equal(torch.rand(5, generator=generator("x", 1)), torch.rand(5, generator=generator("x", 1)))
    assert not torch.equal(
        torch.rand(5, generator=generator("x", 1)), torch.rand(5, generator=generator("x", 2))
    )
    assert (numpy_generator("x", 1).random(5) == numpy_generator("x", 1).random(5)).all()
    assert (numpy_generator("x", 1).random(5) != numpy_generator("x", 2).random(5)).all()


def test_first_draws_across_consecutive_seeds_are_independent_uniforms():
    # One stream per image: it is the first draw of each stream that must be uniform and uncorrelated along
    # the index.
    u = np.array([numpy_generator(seed).random() for seed in image_seeds(0, 0, 0, range(4000))])
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) * np.sqrt(len(u)) < 4


def test_no_two_images_of_a_generation_share_the_32_bits_that_torch_reads():
    seeds = image_seeds(0, 0, 3, range(200_000))
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == 200_000 and max(seeds) < 2**63
    draws = {
        tuple(torch.randn(2, generator=torch.Generator().manual_seed(seed)).tolist()) for seed in seeds[:2000]
    }
    assert len(draws) == 2000

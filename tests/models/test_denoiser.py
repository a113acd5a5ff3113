"""What the pixel families share: guidance, schedulers, files. The network is a stub whose answers are known."""

from __future__ import annotations

import inspect
import json
import math
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from safetensors.torch import load_file, save_file

from difflab.config import PixelMLP as Spec
from difflab.config import Sample, Train
from difflab.core.errors import ConfigError, StoreError
from difflab.core.shape import Shape
from difflab.models.denoiser import HALVED, to_pixels
from difflab.models.pixel import noise_of
from difflab.models.pixel_mlp import DenoisingMLP, PixelMLP
from difflab.models.schedulers import drawing, scheduler_of
from difflab.models.steer import Steer, Step

SCHEDULERS = ["DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
              "HeunDiscreteScheduler", "UniPCMultistepScheduler", "PNDMScheduler", "LMSDiscreteScheduler", "DEISMultistepScheduler"]  # fmt: skip

# diffusers (0.35 to 0.42) itself hands tensors to np.array() in the set_timesteps of most schedulers.
pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning:diffusers.schedulers"
    ),
    pytest.mark.filterwarnings(
        "ignore:__array_wrap__ must accept context:DeprecationWarning:diffusers.schedulers"
    ),
]

SMALL = Shape((4, 4, 1), 3)


def spec(**changes: Any) -> Spec:
    return Spec(**{"family": "pixel-mlp", "width": 16, "depth": 1, **changes})


def small(**changes: Any) -> PixelMLP:
    model = PixelMLP(spec(**changes), Shape((4, 4, 1), 3))
    model.initialise(0)
    model.net.eval()
    return model


class Stub(torch.nn.Module):
    """A network with a parameter (for its device) and an answer of ours; it counts its calls."""

    def __init__(self, answer: Any):
        super().__init__()
        self.parameter, self.answer, self.calls = torch.nn.Parameter(torch.zeros(())), answer, 0

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        self.calls += 1
        return self.answer(x, t, labels)


def stubbed(answer: Any, shape: Shape = SMALL, **changes: Any) -> PixelMLP:
    model = PixelMLP(spec(**changes), shape)
    model.net = Stub(answer)
    return model


def test_pixels_are_scaled_to_plus_and_minus_one():
    images = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)
    torch.testing.assert_close(to_pixels(images), torch.tensor([-1.0, -0.6, 1.0]).view(1, 3, 1, 1))


# ---------------------------------------------------------------------------------------------- guidance
def labelled(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """An answer that depends on image, time and label; label 3 is the null label."""
    assert labels is not None
    return (0.3 * x + 0.2 * labels.view(-1, 1, 1, 1) + (t / 1000).view(-1, 1, 1, 1)).clamp(-1, 1)


def by_hand(labels: np.ndarray, seeds: list[int], g: float, steps: int) -> np.ndarray:
    """Guided DDIM, written out anew, image by image (Ho & Salimans 2207.12598, eq. 6 with g = 1 + w)."""
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", timestep_spacing="trailing"
    )
    scheduler.set_timesteps(steps)
    out = []
    for label, seed in zip(labels, seeds, strict=True):
        x = torch.randn((1, 1, 4, 4), generator=torch.Generator().manual_seed(seed))
        for t in scheduler.timesteps:
            conditional, null = (
                labelled(x, t.view(1), torch.tensor([label])),
                labelled(x, t.view(1), torch.tensor([3])),
            )
            guided = (1 - g) * null + g * conditional if g > 1 else conditional  # as in diffusers' pipelines
            x = scheduler.step(guided, t, x, use_clipped_model_output=True).prev_sample
        out.append(((x.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 0).numpy())
    return np.stack(out)


@pytest.mark.parametrize("g", [0.0, 0.5, 1.0, 3.0])
def test_guidance_is_the_formula_of_the_paper(g):
    labels, seeds = np.array([0, 1, 2, 2, 0]), [11, 12, 13, 14, 15]
    ours = stubbed(labelled).sample(labels, seeds, Sample(steps=6, guidance_scale=g))
    difference = np.abs(ours.astype(int) - by_hand(labels, seeds, g, 6).astype(int))
    assert (
        difference.max() <= 1 and (difference > 0).mean() < 0.02
    )  # float32 sums in another order may round the other way


def test_guidance_of_at_most_one_asks_the_label_alone():
    asked: list[torch.Tensor] = []

    def answer(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        asked.append(labels.clone())
        return x

    for g, wanted in ((1.0, [0, 2]), (0.0, [0, 2]), (0.5, [0, 2]), (2.0, [3, 3, 0, 2])):
        asked.clear()
        stubbed(answer).sample(np.array([0, 2]), [1, 2], Sample(steps=3, guidance_scale=g))
        assert len(asked) == 3 and all(a.tolist() == wanted for a in asked)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_large_batch_on_a_cpu_is_drawn_in_halves_with_the_images_of_each_seed(threads):
    sizes: list[int] = []

    def answer(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return labelled(x, t, labels)

    labels, seeds, how = np.arange(HALVED + 1) % 3, list(range(HALVED + 1)), Sample(steps=3, guidance_scale=1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        whole = stubbed(answer).sample(labels, seeds, how)
    finally:
        torch.set_num_threads(before)
    assert sorted(sizes) == 3 * [HALVED // 2] + 3 * [HALVED // 2 + 1]
    few = [stubbed(answer).sample(labels[k : k + 1], seeds[k : k + 1], how) for k in range(len(seeds))]
    assert np.abs(whole.astype(int) - np.concatenate(few).astype(int)).max() <= 1


def test_policies_see_the_whole_batch():
    sizes: list[int] = []

    def answer(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return x

    model = stubbed(answer)
    model.steers = [Steer()]
    model.sample(np.zeros(HALVED, int), list(range(HALVED)), Sample(steps=2, guidance_scale=1))
    assert sizes == [HALVED, HALVED]


def test_an_unconditional_model_is_asked_for_no_label():
    def answer(x: torch.Tensor, t: torch.Tensor, labels: Any) -> torch.Tensor:
        assert labels is None and t.shape == (2,)
        return x

    assert stubbed(answer, conditional=False).sample(None, [1, 2], Sample(steps=3)).shape == (2, 4, 4, 1)


def test_a_conditional_model_of_an_unlabelled_set_is_refused():
    with pytest.raises(ConfigError, match=r"model\.conditional=true needs a labelled set.*pixel-mlp"):
        PixelMLP(spec(), Shape((4, 4, 1), 0))


# -------------------------------------------------------------------------------------------- schedulers
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_is_deterministic_and_every_image_has_its_own_noise(name):
    model, how = small(), Sample(scheduler=name, steps=5)
    labels, seeds = np.array([0, 1, 2, 1]), [5, 6, 7, 8]
    one = model.sample(labels, seeds, how)
    assert one.shape == (4, 4, 4, 1) and one.dtype == np.uint8
    torch.rand(7)  # no stream is shared with anything else
    assert (model.sample(labels, seeds, how) == one).all()
    reordered = model.sample(labels[::-1].copy(), seeds[::-1], how)[::-1]
    assert (
        np.abs(reordered.astype(int) - one).max() <= 1
    )  # an image depends on its own seed, not on its place
    assert (model.sample(labels, [5, 6, 7, 9], how)[3] != one[3]).any()


def analytic(mean: float, sd: float, prediction: str, schedule: str) -> Any:
    """The perfect denoiser of pixels that are N(mean, sd^2): what a network would learn from infinitely many of them."""
    bars = DDPMScheduler(beta_schedule=schedule).alphas_cumprod.double()

    def answer(x: torch.Tensor, t: torch.Tensor, labels: Any) -> torch.Tensor:
        ab = bars[t.long()].view(-1, 1, 1, 1)
        a, s = ab.sqrt(), (1 - ab).sqrt()
        clean = mean + a * sd**2 / (ab * sd**2 + 1 - ab) * (x.double() - a * mean)
        noise = (x.double() - a * clean) / s
        return (noise if prediction == "epsilon" else a * noise - s * clean).float()

    return answer


@pytest.mark.parametrize(
    ("name", "steps", "prediction", "schedule"),
    [
        ("DDIMScheduler", 1000, "v_prediction", "squaredcos_cap_v2"),
        ("DDIMScheduler", 1000, "epsilon", "linear"),
        ("DDPMScheduler", 1000, "v_prediction", "squaredcos_cap_v2"),
        ("DPMSolverMultistepScheduler", 250, "v_prediction", "squaredcos_cap_v2"),
        ("DPMSolverMultistepScheduler", 250, "epsilon", "linear"),
        ("EulerDiscreteScheduler", 1000, "epsilon", "linear"),
        ("HeunDiscreteScheduler", 250, "epsilon", "linear"),
        ("UniPCMultistepScheduler", 250, "v_prediction", "linear"),
    ],
)
def test_a_perfect_denoiser_gives_samples_of_the_true_mean_and_spread(name, steps, prediction, schedule):
    """Within z < 4 over 9,600 pixels. Steps are many because too few shrink the spread (DDIM: by 1.8/steps of it at the cosine schedule)."""
    mean, sd, n = 0.2, 0.15, 150  # 0.2 +- 5 sd lies within [-1, 1], so nothing is clipped
    model = stubbed(
        analytic(mean, sd, prediction, schedule),
        Shape((8, 8, 1), 0),
        conditional=False,
        prediction_type=prediction,
        beta_schedule=schedule,
    )
    how = Sample(scheduler=name, steps=steps)
    x = model.sample(None, list(range(n)), how) / 127.5 - 1.0
    count = x.size
    rounding = (2 / 255) ** 2 / 12  # variance that 8 bits add
    spread = math.sqrt(sd**2 + rounding)
    z_mean = (x.mean() - mean) / (spread / math.sqrt(count))
    z_sd = (x.std() / spread - 1) * math.sqrt(2 * count)
    assert abs(z_mean) < 4 and abs(z_sd) < 4, (z_mean, z_sd)


def test_sampling_starts_from_the_noise_level_it_was_told():
    """The first step of a few must be at T: at a lower one, pure noise is not what the network was trained on."""
    for name in SCHEDULERS:
        scheduler = scheduler_of(Sample(scheduler=name, steps=5), noise_of(spec()))
        assert float(scheduler.timesteps[0]) == 999, name
    for n_steps in (10, 50):
        given = Sample(steps=n_steps, scheduler_options={"timestep_spacing": "leading"})
        assert float(scheduler_of(given, noise_of(spec())).timesteps[0]) == 1000 - 1000 // n_steps


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_noise_schedule_is_that_of_training(name, schedule):
    noise = noise_of(spec(beta_schedule=schedule, train_timesteps=500))
    scheduler = scheduler_of(Sample(scheduler=name, steps=5), noise)
    torch.testing.assert_close(scheduler.alphas_cumprod[:-1], noise.alphas_cumprod[:-1])
    assert scheduler.config.prediction_type == "v_prediction" and scheduler.config.num_train_timesteps == 500


def test_options_reach_the_scheduler():
    scheduler = scheduler_of(
        Sample(scheduler_options={"clip_sample": False, "timestep_spacing": "linspace"}), noise_of(spec())
    )
    assert scheduler.config.clip_sample is False and scheduler.config.timestep_spacing == "linspace"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("DDIMSheduler", {}, "'DDIMSheduler' is no scheduler of diffusers; did you mean 'DDIMScheduler'"),
        ("os.system", {}, "'os.system' is no scheduler of diffusers"),
        ("DDPMPipeline", {}, "'DDPMPipeline' is no scheduler of diffusers"),
        ("FlowMatchEulerDiscreteScheduler", {}, "does not denoise what this family is trained on"),
        ("EDMEulerScheduler", {}, "does not denoise"),
        ("DDIMInverseScheduler", {}, "does not denoise"),
        (
            "DDIMScheduler",
            {"clip_samples": True},
            "DDIMScheduler has no option 'clip_samples'; did you mean 'clip_sample'",
        ),
        ("DDIMScheduler", {"self": 1}, "has no option 'self'"),
        (
            "DDIMScheduler",
            {"alphas": 1},
            "has no option 'alphas'",
        ),  # a local variable of its constructor, no option
        (
            "DDIMScheduler",
            {"prediction_type": "epsilon"},
            "'prediction_type' must be the same as in training",
        ),
        ("DDIMScheduler", {"trained_betas": [0.1]}, "'trained_betas' must be the same as in training"),
        ("DDIMScheduler", {"timestep_spacing": "loose"}, r"refuses .*'loose'.* with sample\.steps 50"),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "dpm"}, "refuses .*'dpm'"),
    ],
)
def test_what_cannot_sample_is_refused(name, options, message):
    with pytest.raises(ConfigError, match=message):
        small().check_sampling(Sample(scheduler=name, scheduler_options=options))


def test_more_steps_than_training_has_are_refused():
    with pytest.raises(ConfigError, match=r"sample\.steps 1001"):
        scheduler_of(Sample(steps=1001), noise_of(spec()))


def test_the_names_tested_here_are_names_of_diffusers():
    assert all(hasattr(diffusers, name) for name in SCHEDULERS)


def test_pixels_that_are_no_numbers_are_an_error():
    with pytest.raises(StoreError, match="non-finite pixels"):
        stubbed(lambda x, t, y: x * math.nan).sample(np.array([0]), [1], Sample(steps=2))


# ------------------------------------------------------------------------------------------------ steers
class Plus(Steer):
    """Adds a number wherever it is asked, and remembers the steps."""

    def __init__(self, number: float):
        self.number, self.steps = number, []

    def start(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x + self.number

    def guidance(self, scale: float, share: float) -> float:
        return 2 * scale + self.number

    def prediction(self, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        self.steps.append(step)
        return 2 * prediction + self.number


def test_steers_that_change_nothing_change_no_bit():
    for name in ("DDIMScheduler", "DDPMScheduler"):
        model, how = small(), Sample(scheduler=name, steps=4, guidance_scale=2.0)
        plain = model.sample(np.array([0, 2]), [1, 2], how)
        model.steers = [Steer(), Steer()]
        assert (model.sample(np.array([0, 2]), [1, 2], how) == plain).all()


def test_several_steers_are_asked_in_order_and_are_told_the_step():
    seen: list[torch.Tensor] = []

    def answer(x: torch.Tensor, t: torch.Tensor, labels: Any) -> torch.Tensor:
        seen.append(x)
        return torch.zeros_like(x)

    model = stubbed(answer)
    one, two = Plus(1.0), Plus(3.0)
    model.steers = [one, two]
    model._denoised(np.array([0, 2]), [1, 2], Sample(steps=4, guidance_scale=1.5))
    noise = torch.stack([torch.randn((1, 4, 4), generator=torch.Generator().manual_seed(s)) for s in (1, 2)])
    torch.testing.assert_close(seen[0][2:], 2 * (2 * noise + 1) + 3)
    assert [step.share for step in two.steps] == pytest.approx([0.999, 0.749, 0.499, 0.249])
    assert {step.scale for step in two.steps} == {2 * (2 * 1.5 + 1) + 3}
    assert (
        two.steps[0].seeds == [1, 2]
        and two.steps[0].conditions.tolist() == [0, 2]
        and two.steps[0].t.tolist() == [999, 999]
    )
    step = one.steps[0]
    twice = two.prediction(one.prediction(torch.zeros(2), step), step)
    assert twice.tolist() == [5.0, 5.0]


def test_what_fills_up_a_batch_has_seeds_too():
    seen: list[Step] = []

    class Look(Steer):
        def prediction(self, prediction: torch.Tensor, step: Step) -> torch.Tensor:
            seen.append(step)
            return prediction

    model = stubbed(labelled)
    model.steers = [Look()]
    how = Sample(
        steps=2, batch_size=4, compile=True
    )  # asked of a family that was not compiled, so that it fills up and no more
    assert len(model.sample(np.array([0, 1, 2]), [7, 8, 9], how)) == 3
    assert all(
        step.seeds == [7, 8, 9, 7] and step.conditions.tolist() == [0, 1, 2, 0] and len(step.x) == 4
        for step in seen
    )


def test_conditions_are_told_anew_and_none_is_not():
    class Mute(Steer):
        def embedding(self, e: torch.Tensor, step: Step) -> torch.Tensor:
            return torch.full_like(e, step.share)

    model, asked = small(), []
    for _ in range(2):  # however often it is prepared
        model.prepare_sampling(Sample(), "cpu")
    model.net.label.register_forward_hook(
        lambda module, given, e: asked.append((given[0].tolist(), e.mean().item(), e.std().item()))
    )
    model.steers = [Mute()]
    model.sample(np.array([0, 2]), [1, 2], Sample(steps=2, guidance_scale=2.0))
    assert [labels for labels, _, _ in asked] == [[0, 2], [3, 3]] * 2
    assert [mean for _, mean, _ in asked[::2]] == pytest.approx([0.999, 0.499]) and all(
        spread < 1e-6 for _, _, spread in asked[::2]
    )
    assert all(spread > 0.1 for _, _, spread in asked[1::2])
    assert torch.equal(model.net.label(torch.tensor([1])), model.net.label.weight[1:2])


def test_the_first_other_prediction_without_condition_is_taken():
    class Other(Steer):
        def __init__(self, value: float | None):
            self.value = value

        def without(self, step: Step) -> torch.Tensor | None:
            return None if self.value is None else torch.full_like(step.x, self.value)

    model = stubbed(labelled)
    x, t, y = torch.zeros(2, 1, 4, 4), torch.tensor([500, 500]), torch.tensor([1, 2])
    step = Step(x, t, 0.5, y, 3.0, [0, 1])
    with_, none = labelled(x, t, y), labelled(x, t, torch.tensor([3, 3]))
    for values, wanted in (((None, 0.25, 0.5), 0.25), ((None,), none)):
        model.steers = [Other(value) for value in values]
        torch.testing.assert_close(model.guided(step), wanted + 3 * (with_ - wanted))


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in SCHEDULERS
        if "generator" in inspect.signature(getattr(diffusers, name).step).parameters
    ],
)
def test_the_noise_of_every_stochastic_scheduler_can_be_steered(name):
    class Silent(Steer):
        def noise(self, z: torch.Tensor) -> torch.Tensor:
            return 0 * z

    scheduler, x = scheduler_of(Sample(scheduler=name, steps=5), noise_of(spec())), torch.randn(2, 1, 4, 4)

    def step(seed: int) -> torch.Tensor:
        own = scheduler_of(Sample(scheduler=name, steps=5), noise_of(spec()))
        own.scale_model_input(x, own.timesteps[0])
        return own.step(x, own.timesteps[0], x, generator=torch.Generator().manual_seed(seed)).prev_sample

    stochastic = not torch.equal(step(0), step(1))
    assert stochastic == (name in ("DDPMScheduler", "EulerAncestralDiscreteScheduler"))
    with drawing(scheduler, [Steer(), Silent()]):
        assert torch.equal(step(0), step(1))
    assert stochastic != torch.equal(step(0), step(1))  # as before


# ------------------------------------------------------------------------------------------------- files
def test_saving_and_loading_keeps_every_bit(tmp_path):
    model = small()
    model.save(tmp_path)
    read = PixelMLP.load(model.spec, model.shape, tmp_path)
    state = read.net.state_dict()
    assert all(torch.equal(p, state[name]) for name, p in model.net.state_dict().items())
    assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "scheduler_config.json",
    }
    assert DDPMScheduler.from_pretrained(tmp_path / "scheduler").config.prediction_type == "v_prediction"
    assert isinstance(DenoisingMLP.from_pretrained(tmp_path / "unet"), DenoisingMLP)


def _cut(path: Any) -> None:
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize(
    "damage",
    [
        "no weights",
        "cut weights",
        "no config",
        "cut config",
        "foreign config",
        "a tensor less",
        "other shapes",
        "gone",
    ],
)
def test_a_damaged_model_is_named_and_never_filled_up(tmp_path, damage):
    model = small()
    model.save(tmp_path)
    weights, record = (
        tmp_path / "unet" / "diffusion_pytorch_model.safetensors",
        tmp_path / "unet" / "config.json",
    )
    if damage == "no weights":
        weights.unlink()
    elif damage == "cut weights":
        _cut(weights)
    elif damage == "no config":
        record.unlink()
    elif damage == "cut config":
        record.write_text(record.read_text()[:20])
    elif damage == "foreign config":
        record.write_text(
            json.dumps(
                {"_class_name": "DenoisingMLP", "sample_size": "four", "channels": 1, "width": 16, "depth": 1}
            )
        )
    elif damage == "a tensor less":
        tensors = load_file(weights)
        tensors.pop("into.weight")
        save_file(tensors, weights, {"format": "pt"})
    elif damage == "other shapes":
        record.write_text(record.read_text().replace('"width": 16', '"width": 24'))
    else:
        for path in tmp_path.rglob("*.*"):
            path.unlink()
    with pytest.raises(
        StoreError, match=r"holds no readable model.*delete it and run the same command again"
    ):
        PixelMLP.load(model.spec, model.shape, tmp_path)


def test_fresh_weights_are_a_pure_function_of_the_seed():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b, c = small(), small(), PixelMLP(spec(), Shape((4, 4, 1), 3))
    c.initialise(1)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's randomness moves
    assert torch.equal(a.net.into.weight, b.net.into.weight) and not torch.equal(
        a.net.into.weight, c.net.into.weight
    )


@pytest.mark.parametrize(("value", "compiled"), [(True, True), (False, False), ("auto", False)])
def test_only_a_decision_compiles_the_network(value, compiled):
    for section, prepare in ((Train, "prepare_training"), (Sample, "prepare_sampling")):
        model = small()
        getattr(model, prepare)(section(compile=value), "cpu")
        assert (model.net._compiled_call_impl is not None) is compiled

"""Oracles: scikit-image, scipy and numpy re-derivations image by image; images whose statistics are known; a random head on disk."""

import math
import pickle
import zlib
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import ndimage, stats
from skimage.color import rgb2hsv
from skimage.measure import shannon_entropy
from torch import nn

from difflab.config import parse
from difflab.core.errors import MeasureError
from difflab.loop.chain import run_chain
from difflab.metrics import METRICS, AestheticHead, Pair, open_extractor
from difflab.metrics.texture import STATISTICS, texture, wasserstein

run_chain = partial(run_chain, plots=False)  # curves take seconds

SHIFTS = [f"{name}_shift" for name in STATISTICS]


def images(n, size=16, channels=3, seed=0):
    """Coloured noise with smooth parts, so that no statistic is degenerate."""
    draw = torch.Generator().manual_seed(seed)
    size = size if isinstance(size, tuple) else (size, size)
    coarse = nn.functional.interpolate(
        torch.rand(n, channels, 4, 4, generator=draw), size, mode="bilinear", align_corners=False
    )
    noise = torch.rand(n, channels, *size, generator=draw) * torch.rand(n, 1, 1, 1, generator=draw)
    return ((coarse + noise) / 2 * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def noise_of_slope(n, size, slope, seed=0):
    """Periodic noise whose power falls as frequency^slope, rounded to uint8."""
    draw = torch.Generator().manual_seed(seed)
    radius = torch.hypot(torch.fft.fftfreq(size).unsqueeze(1), torch.fft.fftfreq(size))
    radius[0, 0] = 1
    x = torch.fft.ifft2(
        torch.fft.fft2(torch.randn(n, size, size, generator=draw)) * radius ** (slope / 2)
    ).real
    return (x / x.std((1, 2), keepdim=True) * 40 + 128).round().clamp(0, 255).to(torch.uint8).unsqueeze(3)


def column(x, name):
    return texture(x)[:, STATISTICS.index(name)].double()


# ---------------------------------------------------------------------------------- the statistics of single images
def by_numpy(image):
    """All eight of one image uint8 [H, W, C], written again from their definitions."""
    x, (height, width, channels) = image.astype(np.float64), image.shape
    grey = x[..., 0] if channels == 1 else 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2]
    colourfulness = saturation = 0.0
    if channels == 3:
        rg, yb = x[..., 0] - x[..., 1], (x[..., 0] + x[..., 1]) / 2 - x[..., 2]
        colourfulness = math.hypot(rg.std(), yb.std()) + 0.3 * math.hypot(rg.mean(), yb.mean())
        saturation = rgb2hsv(image)[..., 1].mean()
    laplacian = ndimage.laplace(grey / 255)[1:-1, 1:-1]
    hann = lambda n: np.sin(np.pi * np.arange(n) / n) ** 2  # noqa: E731
    window = np.outer(hann(height), hann(width))
    power = np.abs(np.fft.fft2((grey - np.average(grey, weights=window)) * window)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(height), np.fft.fftfreq(width), indexing="ij"))
    rings = [np.round(radius * min(height, width)) == k for k in range(2, min(height, width) // 2 + 1)]
    noise = (window**2).sum() / 12
    slope = stats.linregress(
        [math.log(radius[r].mean()) for r in rings], [math.log(max(power[r].mean(), noise)) for r in rings]
    ).slope
    left = np.diff(image, axis=1, prepend=np.zeros((height, 1, channels), dtype=np.uint8))
    levels = np.floor(np.round(grey) / 16)
    blocks = [levels[i : i + 8, j : j + 8] for i in range(0, height - 7, 8) for j in range(0, width - 7, 8)]
    return [
        colourfulness,
        saturation,
        (grey / 255).std(),
        laplacian.var(),
        slope,
        power[radius > 0.25].sum() / power.sum(),
        len(zlib.compress(left.tobytes(), 6)) * 8 / (height * width),
        np.mean([shannon_entropy(b) for b in blocks]),
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, (11, 17), 32])
def test_equals_scikit_image_scipy_and_numpy(size, channels):
    x = images(6, size, channels)
    found = texture(x)
    assert found.shape == (6, 8) and found.dtype == torch.float32
    np.testing.assert_allclose(found, [by_numpy(image) for image in x.numpy()], rtol=1e-4, atol=1e-6)


def test_a_constant_image_has_numbers_and_they_are_zero():
    for value in (0, 7, 255):
        found = dict(
            zip(
                STATISTICS,
                texture(torch.full((1, 24, 24, 3), value, dtype=torch.uint8))[0].tolist(),
                strict=True,
            )
        )
        assert found.pop("bits_per_pixel") < 1
        assert all(abs(x) < 1e-9 for x in found.values()), found


def test_one_colour_alone():
    red = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    red[..., 0] = 255
    assert column(red, "saturation") == 1
    assert column(red, "colourfulness").item() == pytest.approx(0.3 * math.hypot(255, 127.5), rel=1e-6)
    assert column(red, "contrast").item() == pytest.approx(0, abs=1e-6)


def test_a_checkerboard_is_all_high_frequency_and_sharp():
    board = (torch.arange(16).unsqueeze(1) + torch.arange(16)) % 2
    x = (board * 255).to(torch.uint8).view(1, 16, 16, 1)
    assert column(x, "high_frequency").item() == pytest.approx(1, abs=1e-6)
    assert column(x, "contrast") == 0.5 and column(x, "sharpness") == 16  # the Laplacian is 4 and -4 in turn
    assert column(x, "local_entropy") == 1  # two levels equally often


def test_a_wave_of_low_frequency_has_no_high_ones():
    wave = (torch.cos(2 * math.pi * 3 * torch.arange(64) / 64) * 100 + 128).round().to(torch.uint8)
    x = wave.expand(64, 64).reshape(1, 64, 64, 1)
    assert column(x, "high_frequency") < 1e-4 < column(x.roll(1, 2), "contrast")


@pytest.mark.parametrize("slope", [0, -1, -2])
def test_the_slope_of_noise_is_the_one_it_was_made_with(slope):
    found = column(noise_of_slope(60, 64, slope), "spectral_slope")
    assert abs(found.mean() - slope) < 0.05 + 4 * found.std() / 60**0.5 and found.std() < 0.2


def test_white_noise_has_its_share_of_area_in_high_frequencies():
    assert column(noise_of_slope(60, 64, 0), "high_frequency").mean().item() == pytest.approx(
        1 - math.pi / 16, abs=0.01
    )


def test_noise_cannot_be_compressed_and_a_ramp_can():
    noise = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    ramp = (torch.arange(64) * 3).to(torch.uint8).view(1, 1, 64, 1).expand(1, 64, 64, 3)
    assert 24 <= column(noise, "bits_per_pixel") < 24.2 and column(ramp, "bits_per_pixel") < 0.5
    assert (
        column(noise[..., :1], "local_entropy") > 3.5
    )  # of at most 4 bits; 64 pixels over 16 levels fall short of it


def test_statistics_do_not_depend_on_company_or_order():
    x = images(70, 64)
    x = torch.cat([x[:7], x[3:4], x[7:]])
    found = texture(x)
    torch.testing.assert_close(found[3], found[7])
    torch.testing.assert_close(texture(x[50:51])[0], found[50])
    assert texture(x[:0]).shape == (0, 8)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(2, 7, 9, 3, dtype=torch.uint8),
        torch.zeros(2, 9, 9, 4, dtype=torch.uint8),
        torch.zeros(2, 9, 9, 3),
        torch.zeros(9, 9, 3, dtype=torch.uint8),
    ],
)
def test_other_images_are_refused(bad):
    with pytest.raises(
        MeasureError, match=r"texture reads uint8 images \[n, H, W, 1 or 3\] of 8 or more pixels"
    ):
        texture(bad)


def test_the_extractor_gives_the_statistics_and_names_what_made_them():
    x = images(70)
    extractor = open_extractor("texture", device="meta")  # it stays on the CPU, whatever the device
    torch.testing.assert_close(extractor(x), texture(x))
    assert extractor.dim == 8 and extractor.name == "texture" and extractor.key.startswith("texture-")
    assert (
        extractor.recipe["statistics"] == list(STATISTICS)
        and extractor.recipe["zlib"] == zlib.ZLIB_RUNTIME_VERSION
    )
    with pytest.raises(MeasureError, match="8 or more pixels"):
        extractor(x[:, :4])
    with pytest.raises(MeasureError, match=r"unknown extractor 'textures'; did you mean 'texture'\?"):
        open_extractor("textures")


# ------------------------------------------------------------------------------------------- shifts of distributions
@pytest.mark.parametrize("sizes", [(50, 50), (30, 47), (1, 9)])
def test_wasserstein_is_scipys(sizes):
    x, y = (torch.randn(n, dtype=torch.float64).round(decimals=1) for n in sizes)
    assert wasserstein(x, y) == pytest.approx(stats.wasserstein_distance(x.numpy(), y.numpy()), abs=1e-12)


def test_measures_equal_numpy_and_scipy():
    real, fake = texture(images(60, seed=1)), texture(images(45, 8, seed=2))
    pair, moved = Pair(real, fake), []
    for at, name in enumerate(SHIFTS):
        x, y = real[:, at].double().numpy(), fake[:, at].double().numpy()
        iqr = stats.iqr(x)
        centre = (
            np.mean if name in ("colourfulness_shift", "saturation_shift") else np.median
        )  # where many images are grey a median is blind
        assert METRICS[name].of(pair) == pytest.approx((centre(y) - centre(x)) / iqr, rel=1e-6), name
        moved.append(stats.wasserstein_distance(x, y) / iqr)
    assert METRICS["texture_distance"].of(pair) == pytest.approx(np.mean(moved), rel=1e-9)


def test_the_same_images_have_not_moved():
    real = texture(images(40))
    pair = Pair(real, real.flip(0))
    assert METRICS["texture_distance"].of(pair) == pytest.approx(0, abs=1e-12)
    assert all(METRICS[name].of(pair) == 0 for name in SHIFTS)


def test_signs_say_which_way():
    real = images(80, 32)
    blurred = (
        nn.functional.avg_pool2d(real.permute(0, 3, 1, 2).float(), 3, 1, 1)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
    )
    pair = Pair(texture(real), texture(blurred))
    for name in (
        "sharpness",
        "spectral_slope",
        "high_frequency",
        "bits_per_pixel",
        "local_entropy",
        "contrast",
    ):
        assert METRICS[f"{name}_shift"].of(pair) < -0.1, name
    faded = Pair(texture(real), texture((real.float() / 4 + 96).to(torch.uint8)))
    for name in ("colourfulness", "saturation", "contrast"):
        assert METRICS[f"{name}_shift"].of(faded) < -1, name


def test_a_shift_counts_interquartile_ranges():
    real = torch.arange(101.0).unsqueeze(1).expand(101, 8)  # quartiles 25 and 75
    assert all(METRICS[name].of(Pair(real, real + 100)) == 2 for name in SHIFTS)
    assert METRICS["texture_distance"].of(Pair(real, real - 100)) == pytest.approx(2)


def test_grey_images_have_no_colour_and_say_so():
    real, fake = texture(images(40, channels=1)), texture(images(40, channels=1, seed=1))
    pair = Pair(real, fake)
    for name in ("colourfulness", "saturation"):
        with pytest.raises(
            MeasureError,
            match=f"{name}_shift has no value: {name} is the same in half of the real images .*: grey images have no colour",
        ):
            METRICS[f"{name}_shift"].of(pair)
    assert all(math.isfinite(METRICS[name].of(pair)) for name in SHIFTS[2:])
    six = [stats.wasserstein_distance(real[:, i], fake[:, i]) / stats.iqr(real[:, i]) for i in range(2, 8)]
    assert METRICS["texture_distance"].of(pair) == pytest.approx(np.mean(six), rel=1e-5)


def test_real_images_that_are_all_the_same_give_no_unit():
    real = texture(torch.full((9, 8, 8, 1), 3, dtype=torch.uint8))
    for name, match in (
        ("contrast_shift", "contrast is the same in half"),
        ("texture_distance", "no statistic varies among the real images"),
    ):
        with pytest.raises(MeasureError, match=match):
            METRICS[name].of(Pair(real, texture(images(9, 8, 1))))


@pytest.mark.parametrize("name", [*SHIFTS, "texture_distance"])
def test_every_texture_measure_says_what_it_is_and_takes_rows(name):
    cls = METRICS[name]
    assert cls.needs == "texture" and cls.unit == "real interquartile ranges" and cls.range[0] < cls.range[1]
    real, fake = texture(images(60, seed=3)), texture(images(50, seed=4))
    r, f = torch.randperm(60)[:30].sort().values, torch.randperm(50)[:20].sort().values
    assert cls.of(Pair(real, fake), r, f) == pytest.approx(
        cls.of(Pair(real[r], fake[f])), rel=1e-9, abs=1e-12
    )
    with pytest.raises(MeasureError, match="the 8 statistics of the texture extractor, got 3 features"):
        cls.of(Pair(torch.randn(9, 3), torch.randn(9, 3)))
    metric = cls()
    metric.update(real, real=True)
    metric.update(fake, real=False)
    assert metric.compute().item() == pytest.approx(cls.of(Pair(real, fake)), rel=1e-9)


# ------------------------------------------------------------------------------------------------------ in a run
RUN = {
    "generations": 0,
    "data": {"source": "digits"},
    "model": {"family": "memoriser"},
    "sample": {"count": 80},
    "probe": {"per_condition": 0},
}


def test_a_run_takes_texture_measures_on_their_extractor_and_the_others_on_the_rest(tmp_path):
    measure = {
        "extractors": ["texture", "pixels"],
        "metrics": ["fd", "class_entropy", "texture_distance", *SHIFTS],
        "resamples": 20,
        "count": 70,
    }
    rows = {
        (r["metric"], r["extractor"]): r
        for r in run_chain(parse({**RUN, "measure": measure}), tmp_path / "run").rows()
    }
    on_texture = {(name, "texture") for name in (*SHIFTS, "texture_distance")}
    assert (
        set(rows) == {("flagged_share", "none"), ("fd", "pixels"), ("class_entropy", "pixels")} | on_texture
    )
    for metric, extractor in on_texture - {
        ("colourfulness_shift", "texture"),
        ("saturation_shift", "texture"),
    }:
        r = rows[metric, extractor]
        assert (
            r["ci_low"] <= r["value"] <= r["ci_high"] and abs(r["value"]) < 1 and math.isfinite(r["floor"])
        ), metric
    for metric in ("colourfulness_shift", "saturation_shift"):
        assert rows[metric, "texture"]["value"] is None and rows[metric, "texture"]["reason"].endswith(
            "grey images have no colour"
        )


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (
            {"metrics": ["fd", "texture_distance"]},
            "texture_distance is read off the extractor 'texture'; add it to measure.extractors",
        ),
        (
            {"metrics": ["fd", "texture_distance"], "extractors": ["texture"]},
            "fd is not taken on the extractor 'texture'; add another",
        ),
        (
            {"metrics": ["fd"], "extractors": ["pixels", "texture"], "judge": "texture"},
            "measure.judge: 'texture' sees no classes",
        ),
    ],
)
def test_measures_and_extractors_that_do_not_go_together_are_refused_before_anything_is_fitted(
    tmp_path, measure, said
):
    with pytest.raises(MeasureError, match=said):
        run_chain(parse({**RUN, "measure": measure}), tmp_path / "run")
    assert not list((tmp_path / "run").glob("gen-*"))


# --------------------------------------------------------------------------------------------------- aesthetic score
WIDTH = 12
BACKBONE = SimpleNamespace(
    name="open_clip:ViT-L-14/openai", dim=WIDTH, recipe={"name": "open_clip:ViT-L-14/openai", "sha256": "1"}
)


class MLP(nn.Module):
    """The published head in small: linear layers with dropout between, in one version with ReLU too."""

    def __init__(self, relu):
        super().__init__()
        widths, dropout = (WIDTH, 10, 8, 6, 4, 1), (0.2, 0.2, 0.1, None, None)
        layers = []
        for at, p in enumerate(dropout):
            layers.append(nn.Linear(widths[at], widths[at + 1]))
            layers += [nn.ReLU()] if relu and at < 4 else []
            layers += [nn.Dropout(p)] if p else []
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x)


def test_a_linear_head_of_either_kind_of_file_scores_normalised_features(tmp_path):
    linear, features = nn.Linear(WIDTH, 1), torch.randn(20, WIDTH) * 30
    save_file(linear.state_dict(), tmp_path / "head.safetensors")
    np.savez(tmp_path / "head.npz", **{k: v.numpy() for k, v in linear.state_dict().items()})
    wanted = linear(features / features.norm(dim=1, keepdim=True)).squeeze(1).detach()
    heads = [AestheticHead.load(tmp_path / name, BACKBONE) for name in ("head.safetensors", "head.npz")]
    for head in heads:
        torch.testing.assert_close(head(features), wanted)
        torch.testing.assert_close(head(features * 7), wanted)  # so that scores of 20 to 30 cannot come
    assert (
        heads[0].recipe["sha256"] == heads[1].recipe["sha256"]
        and heads[0].recipe["head"] == "head.safetensors"
    )
    assert heads[0].recipe["backbone"] == BACKBONE.recipe and heads[0].recipe["layers"] == [WIDTH, 1]
    assert torch.isfinite(heads[0](torch.zeros(1, WIDTH))).all() and heads[0](features[:0]).shape == (0,)


@pytest.mark.parametrize("relu", [False, True])
def test_the_mlp_is_the_module_it_came_from(tmp_path, relu):
    mlp, features = MLP(relu).eval(), torch.randn(30, WIDTH)
    save_file(mlp.state_dict(), tmp_path / "head.safetensors")
    head = AestheticHead.load(tmp_path / "head.safetensors", BACKBONE)
    torch.testing.assert_close(head(features), mlp(nn.functional.normalize(features)).squeeze(1).detach())
    assert head.recipe["relu"] is relu and head.recipe["layers"] == [WIDTH, 10, 8, 6, 4, 1]


def test_another_head_has_another_recipe(tmp_path):
    for name in "ab":
        save_file(nn.Linear(WIDTH, 1).state_dict(), tmp_path / f"{name}.safetensors")
    a, b = (AestheticHead.load(tmp_path / f"{name}.safetensors", BACKBONE).recipe for name in "ab")
    assert a["sha256"] != b["sha256"]


def test_pickles_are_never_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").touch, ())

    torch.save(nn.Linear(WIDTH, 1).state_dict(), tmp_path / "head.pth")
    np.savez(tmp_path / "objects.npz", weight=np.array([Bomb()], dtype=object), bias=np.zeros(1))
    for name in ("bomb.npz", "bomb.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(MeasureError, match="pickles can run code and are not read"):
        AestheticHead.load(tmp_path / "head.pth", BACKBONE)
    for name in ("objects.npz", "bomb.npz", "bomb.safetensors"):
        with pytest.raises(MeasureError, match="cannot read an aesthetic head"):
            AestheticHead.load(tmp_path / name, BACKBONE)
    assert not (tmp_path / "exploded").exists()


def test_heads_that_are_none(tmp_path):
    path = tmp_path / "head.safetensors"
    weight, bias = torch.randn(1, WIDTH), torch.zeros(1)
    for state, match in (
        ({"weight": weight}, "no head that is known here: it holds weight; wanted"),
        ({"weight": weight, "bias": bias, "scale": bias}, "no head that is known"),
        ({"other.weight": weight, "other.bias": bias}, "no head that is known"),
        (
            {
                "layers.0.weight": weight,
                "layers.0.bias": bias,
                "layers.1.weight": bias.view(1, 1),
                "layers.1.bias": bias,
            },
            "no head that is known",
        ),
        (
            {"weight": weight.expand(2, -1).contiguous(), "bias": torch.zeros(2)},
            "do not lead from features to one finite score",
        ),
        ({"weight": weight, "bias": torch.zeros(3)}, "do not lead"),
        ({"weight": weight * float("nan"), "bias": bias}, "do not lead"),
        ({"weight": weight[0], "bias": bias}, "do not lead"),
        (
            {"weight": weight[:, 1:].contiguous(), "bias": bias},
            f"reads {WIDTH - 1} features, open_clip:ViT-L-14/openai makes {WIDTH}",
        ),
    ):
        save_file({key: tensor.clone() for key, tensor in state.items()}, path)
        with pytest.raises(MeasureError, match=match):
            AestheticHead.load(path, BACKBONE)
    for content, name in (
        (b"", "empty.npz"),
        (b"junk", "junk.npz"),
        (b"PK\x03\x04", "cut.npz"),
        (b"junk", "junk.safetensors"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(MeasureError, match="cannot read an aesthetic head"):
            AestheticHead.load(tmp_path / name, BACKBONE)
    np.save(tmp_path / "array.npy", np.zeros(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    for name in ("array.npz", "absent.npz", "absent.safetensors"):
        with pytest.raises(MeasureError, match="cannot read an aesthetic head"):
            AestheticHead.load(tmp_path / name, BACKBONE)


def test_features_of_something_else_are_refused(tmp_path):
    path = tmp_path / "head.safetensors"
    save_file(nn.Linear(WIDTH, 1).state_dict(), path)
    with pytest.raises(MeasureError, match="scores CLIP features; pixels makes others"):
        AestheticHead.load(path, open_extractor("pixels"))
    head = AestheticHead.load(path, BACKBONE)
    for bad in (torch.randn(3, WIDTH + 1), torch.randn(WIDTH), torch.full((2, WIDTH), math.nan)):
        with pytest.raises(MeasureError, match=rf"finite features \[n, {WIDTH}\]"):
            head(bad)

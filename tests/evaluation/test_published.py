"""The packages, run on the same folders with the same network, are the oracles. The evaluator of ADM needs
TensorFlow; its formulas in NumPy stand in tests/metrics/test_published.py.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import small_inception
import torch
from image_files import cut
from pictures import folder, pictures
from PIL import Image
from small_inception import encode, random_weights, small, weights, write
from small_vgg import LOAD, TinyVgg
from torch import nn
from torch.nn import functional as F
from torch_fidelity import calculate_metrics, register_feature_extractor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from difflab import compare
from difflab.core.errors import DataError, MeasureError
from difflab.data.stored import open_stored
from difflab.evaluation import published
from difflab.evaluation.protocols import PROTOCOLS
from difflab.evaluation.reference import Reference, moments, write_reference
from difflab.features.inception import open_inception_steps
from difflab.metrics import published as formulas


class SmallFidelity(FeatureExtractorBase):
    """The small network for torch-fidelity, behind torch-fidelity's own resize."""

    def __init__(self, name, features_list, **kwargs):
        super().__init__(name, features_list)

    def forward(self, x):
        resized = interpolate_bilinear_2d_like_tensorflow1x(x.float(), size=(299, 299), align_corners=False)
        features = {"features": encode((resized - 128) / 128)}
        features["logits"] = features["features"] @ weights()[1].T
        return tuple(features[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list():
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "features"


register_feature_extractor("small-inception", SmallFidelity)


@pytest.fixture(autouse=True)
def network(monkeypatch):
    monkeypatch.setattr(published, "open_network", lambda protocol, *args: small(protocol.resize))


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> tuple[Path, Path]:
    """More images than a subset of KID has (`few_in_a_subset`), 14 x 9 pixels."""
    path = tmp_path_factory.mktemp("large")
    return write(path / "real", 70, 0), write(path / "generated", 66, 1)


@pytest.fixture
def few_in_a_subset(monkeypatch) -> int:
    """Images in a subset of KID; tests/metrics/test_published.py compares the default with the packages'."""
    monkeypatch.setattr(formulas, "KID_SUBSET_SIZE", 60)
    return 60


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> tuple[Path, Path]:
    """Of all sizes, square or not."""
    path = tmp_path_factory.mktemp("mixed")
    return write(path / "real", 60, 0, None), write(path / "generated", 50, 1, None)


def values(result) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in result.rows}


def fidelity(real, generated, **options):
    shared = {"feature_extractor": "small-inception", "cuda": False, "cache": False, "verbose": False}
    return calculate_metrics(
        input1=str(generated), input2=str(real), save_cpu_ram=True, batch_size=1, **shared, **options
    )


def same(ours, theirs) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        tolerance = {"rel": 1e-3} if "frechet" in name or name == "FID" else {"rel": 1e-5, "abs": 1e-9}
        assert ours[name] == pytest.approx(value, **tolerance), name


def test_torch_fidelity_with_all_its_measures(large, few_in_a_subset):
    asked = ["fid", "kid", "precision", "inception_score"]
    result = compare(*large, protocol="published", metrics=asked)
    same(
        values(result),
        fidelity(*large, fid=True, kid=True, prc=True, isc=True, kid_subset_size=few_in_a_subset),
    )
    assert result.protocol == "published:torch-fidelity"
    assert {row["protocol"] for row in result.rows} == {result.protocol} and {
        row["n"] for row in result.rows
    } == {66}
    assert result.frame.protocol.unique().tolist() == [result.protocol]
    assert result["precision"]["value"] != result["recall"]["value"]
    assert "70 real images and 66 generated ones, all of them; torch-fidelity 0.4.0" in result.notes[-1]
    assert result.summary().verdict.startswith("published:torch-fidelity: frechet_inception_distance ")


def test_precision_and_recall_of_torch_fidelity_on_its_own_network(mixed, monkeypatch):
    monkeypatch.setattr(LOAD, lambda **options: TinyVgg())
    monkeypatch.setattr(published, "on_disk", lambda n, d: torch.zeros(n, 8 if d == 4096 else d))
    result = compare(*mixed, protocol="published", metrics=["fid", "precision"], extractors=["vgg16"])
    theirs = calculate_metrics(
        input1=str(mixed[1]), input2=str(mixed[0]), prc=True,
        cuda=False, cache=False, verbose=False, save_cpu_ram=True, batch_size=1,
    )  # fmt: skip
    ours = values(result)
    same({name: ours[name] for name in theirs}, theirs)
    spaces = {row["metric"]: row["extractor"] for row in result.rows}
    assert spaces["precision"] == "vgg16" and spaces["frechet_inception_distance"] == "inception"
    on_inception = values(compare(*mixed, protocol="published", metrics=["precision"]))
    assert (on_inception["precision"], on_inception["recall"]) != (ours["precision"], ours["recall"])


def test_vgg_is_for_packages_that_read_it_and_needs_its_weights(mixed, tmp_path):
    with pytest.raises(MeasureError, match=r"clean-fid 0.1.35 takes no measure on VGG-16"):
        compare(*mixed, protocol="published:clean-fid", extractors=["inception", "vgg16"])
    with pytest.raises(MeasureError, match=r"no weights of VGG-16 at .*give its path as vgg16:PATH"):
        compare(*mixed, protocol="published", extractors=[f"vgg16:{tmp_path / 'nope.pth'}"])
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(MeasureError, match=r"cannot open VGG-16 .*fetch https"):
        compare(*mixed, protocol="published", extractors=[f"vgg16:{tmp_path / 'bad.pth'}"])


def test_torch_fidelity_on_images_of_all_sizes(mixed):
    ours = values(compare(*mixed, protocol="published:torch-fidelity"))
    theirs = fidelity(*mixed, fid=True, prc=True)
    assert ours["kernel_inception_distance_mean"] is None  # torch-fidelity stops here
    same({name: ours[name] for name in theirs}, theirs)


def test_clean_fid(large, mixed, few_in_a_subset):
    fid = pytest.importorskip("cleanfid.fid")

    def model(batch):
        return encode((batch - 128) / 128)

    options = {"num_workers": 0, "device": "cpu", "verbose": False, "batch_size": 7}
    for sets in (large, mixed):
        first, second = (fid.get_folder_features(str(path), model, **options) for path in sets)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sqrtm(disp=False)
            theirs = {"FID": fid.fid_from_feats(first, second)}
        np.random.seed(3)
        theirs["KID"] = fid.kernel_distance(first, second, max_subset_size=few_in_a_subset)
        same(values(compare(*sets, protocol="published:clean-fid", seed=3)), theirs)
    assert values(compare(*sets, protocol="published:clean-fid", seed=4))["KID"] != pytest.approx(
        theirs["KID"]
    )


def test_pytorch_fid(mixed, large):
    score = pytest.importorskip("pytorch_fid.fid_score")

    class Model(nn.Module):
        def forward(self, batch):  # its InceptionV3 begins like this
            x = F.interpolate(batch, size=(299, 299), mode="bilinear", align_corners=False)
            return [encode(2 * x - 1)[..., None, None]]

    for sets, batch in ((mixed, 1), (large, 50)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = [
                score.calculate_activation_statistics(
                    sorted(path.glob("*.png")), Model(), batch, small_inception.DIM, num_workers=0
                )
                for path in sets
            ]
            theirs = score.calculate_frechet_distance(*found[0], *found[1])
        result = compare(*sets, protocol="published:pytorch-fid")
        same(values(result), {"FID": theirs})


def test_adm(mixed):
    """TensorFlow 1's resize is the one of torch-fidelity, and FID has one formula."""
    result = compare(*mixed, protocol="published:adm", metrics=["fid", "recall", "Inception Score"])
    theirs = fidelity(*mixed, fid=True, prc=True)
    ours = values(result)
    assert ours["FID"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert list(ours) == ["FID", "Precision", "Recall", "Inception Score"]
    assert ours["Precision"] == pytest.approx(theirs["precision"], abs=0.1)  # float16


def test_the_whole_network_reads_images_as_the_packages_do(tmp_path):
    """Random weights of all of Inception; two images that are not square."""
    path, folder = random_weights(tmp_path / "weights.pth"), write(tmp_path / "images", 2, 0, (40, 26))
    images = open_stored(folder, "real", [])
    features = {}
    for name, protocol in PROTOCOLS.items():
        steps = open_inception_steps(str(path), "cpu", protocol.resize)
        features[name] = published.extracted(images, steps, "real", [])[1]
    from torch_fidelity.utils import create_feature_extractor

    network = create_feature_extractor(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        cuda=False,
        feature_extractor_weights_path=str(path),
        verbose=False,
    )
    bytes_NCHW = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    theirs, logits = network(bytes_NCHW)
    torch.testing.assert_close(features["torch-fidelity"], theirs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features["adm"], features["torch-fidelity"], rtol=0, atol=0)
    torch.testing.assert_close(steps.to_logits(theirs), logits, rtol=1e-4, atol=1e-5)
    for one, other in (
        ("clean-fid", "torch-fidelity"),
        ("pytorch-fid", "torch-fidelity"),
        ("pytorch-fid", "clean-fid"),
    ):
        assert (features[one] - features[other]).abs().max() > 1e-3
    inception = pytest.importorskip("pytorch_fid.inception")
    score = pytest.importorskip("pytorch_fid.fid_score")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *args, **options: torch.load(path))
        other = inception.InceptionV3([3])
    found = score.get_activations(sorted(folder.glob("*.png")), other, batch_size=2, num_workers=0)
    torch.testing.assert_close(features["pytorch-fid"], torch.from_numpy(found).float(), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ statistics
def test_statistics_take_the_place_of_the_real_images(mixed, tmp_path):
    whole = values(compare(*mixed, protocol="published:clean-fid"))
    made, notes = published.make_reference(mixed[0], "published:clean-fid", with_features=True)
    assert made.count == 60 and notes == []
    write_reference(tmp_path / "all.safetensors", made)
    write_reference(
        tmp_path / "moments.npz", Reference(made.mean, made.covariance, made.count, made.recipe, made.images)
    )
    result = compare(None, mixed[1], protocol="published:clean-fid", reference=tmp_path / "all.safetensors")
    assert values(result) == pytest.approx(whole, rel=1e-6)
    assert result["KID"]["recipe"] == compare(*mixed, protocol="published:clean-fid")["KID"]["recipe"]
    for real, reference in ((None, "moments.npz"), (tmp_path / "moments.npz", None)):
        result = compare(
            real, mixed[1], protocol="published:clean-fid", reference=reference and tmp_path / reference
        )
        assert result["FID"]["value"] == pytest.approx(whole["FID"], rel=1e-6)
        assert (
            result["KID"]["value"] is None
            and "give REAL too, or make them with --features" in result["KID"]["reason"]
        )
        assert "statistics of 60 real images" in result.notes[-1]
    # pytorch-fid reads our .npz
    score = pytest.importorskip("pytorch_fid.fid_score")
    mean, covariance = score.compute_statistics_of_path(str(tmp_path / "moments.npz"), None, 1, 16, "cpu")
    np.testing.assert_array_equal(covariance, made.covariance.numpy())
    np.testing.assert_array_equal(mean, made.mean.numpy())


def test_a_reference_batch_of_adm_holds_statistics_and_images(mixed, tmp_path):
    """FID is taken from mu and sigma, of more images; precision and recall from the images."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (20, 9, 14, 3), dtype=np.uint8)
    other = torch.from_numpy(draw.normal(size=(500, small_inception.DIM))).float()
    mean, covariance = moments(other)
    np.savez(
        tmp_path / "ref.npz",
        arr_0=images,
        mu=mean.numpy(),
        sigma=covariance.numpy(),
        mu_s=[0.0],
        sigma_s=[[1.0]],
    )
    result = compare(tmp_path / "ref.npz", mixed[1], protocol="published:adm")
    by_images = values(compare(images, mixed[1], protocol="published:adm"))
    ours = values(result)
    assert (ours["Precision"], ours["Recall"]) == (by_images["Precision"], by_images["Recall"])
    contents, fake = published.extracted(
        open_stored(mixed[1], "generated", []), small("tf1"), "generated", []
    )
    from difflab.metrics import frechet_distance

    assert ours["FID"] == pytest.approx(frechet_distance(other, fake), rel=1e-6) and len(contents) == 50
    assert "does not say which network and resize made it" in " ".join(result.notes)


def test_features_are_the_same_in_any_batch(mixed, monkeypatch):
    images = open_stored(mixed[0], "real", [])
    contents, features = published.extracted(images, small("clean"), "real", [])
    monkeypatch.setattr(published, "BATCH", 7)
    again, others = published.extracted(images, small("clean"), "real", [])
    assert contents.hashes == again.hashes and len(set(contents.hashes)) == 60
    assert np.array_equal(contents.thumbnails, again.thumbnails) and len(contents.thumbnails) == 60
    torch.testing.assert_close(features, others)


def test_near_copies_are_said_and_measured_all_the_same(tmp_path):
    """Pictures that are not square, saved again at another size. The numbers are those of all images."""
    for i, picture in enumerate(pictures(30, 64)):
        for side, size, options in (("a", (64, 48), {}), ("b", (128, 96), {"quality": 90})):
            (tmp_path / side).mkdir(exist_ok=True)
            suffix = "jpg" if options else "png"
            picture.resize(size, Image.Resampling.BICUBIC).save(tmp_path / side / f"{i}.{suffix}", **options)
    result = compare(tmp_path / "a", tmp_path / "b", protocol="published")
    assert "real and generated share near copies" in result.notes[0] and "30 of 30" in result.notes[0]
    assert all(row["n"] == 30 for row in result.rows)
    other = folder(tmp_path / "c", 30, 64, 7)
    assert not any("share" in note for note in compare(tmp_path / "a", other, protocol="published").notes)


def test_copies_and_files_that_a_package_leaves_out_are_said(tmp_path):
    write(tmp_path / "a" / "deep", 8, 0)
    write(tmp_path / "b", 8, 0)
    notes = compare(tmp_path / "a", tmp_path / "b", protocol="published").notes
    assert any("real and generated" in note and "compared with themselves" in note for note in notes)
    assert (
        "real: torch-fidelity 0.4.0 by itself reads only jpeg, jpg, png in the folder itself, so not 8 of these 8"
        in notes
    )


# --------------------------------------------------------------------------------------------------- bad input
def test_what_cannot_be_done_is_refused(mixed, tmp_path):
    real, fake = mixed
    cut(tmp_path / "damaged" / "a.png")
    wrong = Reference(torch.zeros(5), torch.eye(5).double(), 9, small("tf1").recipe)
    write_reference(tmp_path / "five.npz", wrong)
    made, _ = published.make_reference(real, "published:clean-fid")
    write_reference(tmp_path / "clean.safetensors", made)
    for options, match in (
        (
            {"protocol": "published:cleanfid"},
            "unknown protocol 'published:cleanfid'; did you mean 'published:clean-fid'",
        ),
        ({"protocol": "adm"}, "unknown protocol 'adm'"),
        (
            {"protocol": "published:pytorch-fid", "metrics": ["kid"]},
            "pytorch-fid 0.3.0 has no measure 'kid'.* known: fid",
        ),
        ({"protocol": "published", "count": 20}, "has no option count"),
        ({"protocol": "published", "train": real, "image_size": 8}, "has no option train, image_size"),
        (
            {"reference": tmp_path / "clean.safetensors"},
            "only a published protocol reads statistics|read by a published",
        ),
        (
            {"protocol": "published", "reference": tmp_path / "five.npz"},
            "has 5 features, the network here has 16",
        ),
        (
            {"protocol": "published", "reference": tmp_path / "clean.safetensors"},
            "was made with resize 'clean', the images here are read with 'tf1'",
        ),
    ):
        with pytest.raises(MeasureError, match=match):
            compare(real, fake, **options)
    with pytest.raises(MeasureError, match="give real images, or statistics"):
        compare(None, fake, protocol="published")
    with pytest.raises(DataError, match=r"reference: .*nope.npz does not exist"):
        compare(None, fake, protocol="published", reference=tmp_path / "nope.npz")
    with pytest.raises(DataError, match=r"generated: image a.png: cannot be decoded"):
        compare(real, tmp_path / "damaged", protocol="published")


def test_too_few_images_leave_a_measure_out_and_not_the_others(tmp_path):
    real, fake = write(tmp_path / "real", 3, 0), write(tmp_path / "fake", 3, 1)
    result = compare(real, fake, protocol="published", metrics=["fid", "kid", "recall", "inception_score"])
    missing = {row["metric"]: row["reason"] for row in result.rows if row["value"] is None}
    assert set(missing) == set(values(result)) - {"frechet_inception_distance"}
    assert "needs 1000 images on each side" in missing["kernel_inception_distance_std"]
    assert "at least 4 images" in missing["f_score"] and "needs 10 images" in missing["inception_score_mean"]
    lone = compare(real, write(tmp_path / "one", 1, 2), protocol="published:clean-fid")
    assert all(row["value"] is None and "at least 2 images" in row["reason"] for row in lone.rows)


def test_only_inception_makes_published_numbers(monkeypatch, tmp_path):
    monkeypatch.undo()
    for extractors in (["pixels"], ["inception", "pixels"], ["timm:x"]):
        with pytest.raises(MeasureError, match="published numbers are made on Inception"):
            published.open_network(PROTOCOLS["adm"], extractors)
    with pytest.raises(MeasureError, match=r"no Inception weights at .*nope.pth"):
        published.open_network(PROTOCOLS["adm"], [f"inception:{tmp_path / 'nope.pth'}"])

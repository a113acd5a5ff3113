"""Inception features are those of torch-fidelity; missing weights are reported with what to type."""

import urllib.error

import pytest
import torch
from safetensors.torch import save_file

from difflab.core.errors import MeasureError
from difflab.core.hashing import sha256_of
from difflab.features import extractor as extractor_module
from difflab.features.registry import open_extractor


def images(n, size=8, channels=1, seed=0):
    return torch.randint(
        0, 256, (n, size, size, channels), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )


def test_inception_from_a_path_is_torch_fidelity_s(tmp_path, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    class Blank(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *a, **k: {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        blank = Blank("blank", ["2048"])
    torch.save(blank.state_dict(), tmp_path / "weights.pth")
    save_file(blank.state_dict(), tmp_path / "weights.safetensors")
    monkeypatch.setattr(extractor_module, "BATCH", 2)
    extractor = open_extractor(f"inception:{tmp_path}/weights.pth")
    assert open_extractor(f"inception:{tmp_path}/weights.safetensors").recipe == extractor.recipe
    x = images(2, 32)
    wanted = blank(x.permute(0, 3, 1, 2).repeat(1, 3, 1, 1))[0]
    assert extractor.dim == 2048 and extractor.recipe["sha256"] == sha256_of(blank.state_dict())
    torch.testing.assert_close(extractor(x), wanted)


def test_batches_in_threads_have_the_features_of_their_own_images(tmp_path, monkeypatch):
    """The resized images reach the network through a hook, which must not mix up those of two threads."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *a, **k: {})
    monkeypatch.setattr(
        fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *a: None, raising=False
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3("blank", ["2048"])
        for layer in network.modules():
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight)  # features do not fade
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    monkeypatch.undo()
    monkeypatch.setattr(extractor_module, "ON_CPU", 1)
    extractor, x, before = (
        open_extractor(f"inception:{tmp_path}/weights.pth"),
        images(6, 32),
        torch.get_num_threads(),
    )
    try:
        torch.set_num_threads(1)
        one_by_one = extractor(x)
        torch.set_num_threads(2)
        torch.testing.assert_close(extractor(x), one_by_one)
    finally:
        torch.set_num_threads(before)
    assert torch.cdist(one_by_one, one_by_one).fill_diagonal_(1).min() > 1e-3


def test_inception_without_weights_says_where_they_are(tmp_path, monkeypatch):
    def silent(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", silent)
    with pytest.raises(MeasureError, match=r"unreachable .*give its path as inception:PATH"):
        open_extractor("inception")
    with pytest.raises(MeasureError, match="no Inception weights at"):
        open_extractor(f"inception:{tmp_path}/absent.pth")
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(MeasureError, match="holds no weights"):
        open_extractor(f"inception:{tmp_path}/bad.pth")

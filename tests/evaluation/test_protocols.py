"""The table of protocols: the names that packages print, and what each can do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity import defaults, metric_fid, metric_isc, metric_kid, metric_prc

from difflab.core.errors import MeasureError
from difflab.data.stored import StoredImages
from difflab.evaluation.protocols import PROTOCOLS, Sides, protocol_of
from difflab.evaluation.reference import Reference
from difflab.metrics import published


def test_the_names_are_those_that_are_printed():
    printed = {
        name: [label for kind in PROTOCOLS[name].measures.values() for label in kind.names]
        for name in PROTOCOLS
    }
    assert printed["torch-fidelity"] == [
        metric_fid.KEY_METRIC_FID,
        metric_kid.KEY_METRIC_KID_MEAN,
        metric_kid.KEY_METRIC_KID_STD,
        metric_prc.KEY_METRIC_PRECISION,
        metric_prc.KEY_METRIC_RECALL,
        metric_prc.KEY_METRIC_F_SCORE,
        metric_isc.KEY_METRIC_ISC_MEAN,
        metric_isc.KEY_METRIC_ISC_STD,
    ]
    assert printed["adm"] == ["FID", "Precision", "Recall", "Inception Score"]
    assert printed["clean-fid"] == ["FID", "KID"] and printed["pytorch-fid"] == ["FID"]


def test_the_constants_are_the_defaults_of_the_installed_package():
    theirs = defaults.DEFAULTS
    assert (theirs["kid_subsets"], theirs["kid_subset_size"]) == (
        published.KID_SUBSETS,
        published.KID_SUBSET_SIZE,
    )
    assert theirs["prc_neighborhood"] == published.NEIGHBOURS and theirs["rng_seed"] == 2020
    assert set(theirs["samples_find_ext"].split(",")) == PROTOCOLS["torch-fidelity"].suffixes
    score = pytest.importorskip("pytorch_fid.fid_score")
    assert PROTOCOLS["pytorch-fid"].suffixes == score.IMAGE_EXTENSIONS


def test_bare_published_is_torch_fidelity():
    assert protocol_of("published") == protocol_of("published:torch-fidelity")
    assert protocol_of("published:adm") == ("published:adm", PROTOCOLS["adm"])
    for name in ("publised", "published:", "native", "clean-fid", ""):
        with pytest.raises(MeasureError, match=r"unknown protocol .* known: native, published, "):
            protocol_of(name)


def test_measures_by_common_and_by_printed_names():
    fidelity, adm = PROTOCOLS["torch-fidelity"], PROTOCOLS["adm"]
    assert list(fidelity.asked(None)) == ["fid", "kid", "precision_recall"] and list(adm.asked(None)) == [
        "fid",
        "precision_recall",
    ]
    assert list(fidelity.asked(["recall", "kernel_inception_distance_std", "precision"])) == [
        "kid",
        "precision_recall",
    ]
    assert list(adm.asked(["inception score", "FID"])) == ["fid", "inception_score"]
    with pytest.raises(MeasureError, match=r"clean-fid 0.1.35 has no measure 'recall'"):
        PROTOCOLS["clean-fid"].asked(["recall"])


def test_files_that_the_command_of_a_package_would_not_read():
    images = StoredImages(["a.png", "b.webp", "c/d.PNG", "e.gif"], np.zeros(4), "real", True)
    counts = {name: protocol.left_out(images) for name, protocol in PROTOCOLS.items()}
    assert counts == {"torch-fidelity": 3, "clean-fid": 1, "pytorch-fid": 2, "adm": 4}
    assert PROTOCOLS["adm"].left_out(StoredImages(["0", "1"], np.zeros(2), "real", False)) == 0


def test_statistics_serve_fid_only():
    fake = torch.tensor([[0.0], [2.0]])
    reference = Reference(torch.tensor([4.0]).double(), torch.tensor([[2.0]]).double())
    sides = Sides(None, fake, reference, lambda features: features, 0)
    for protocol in PROTOCOLS.values():
        assert protocol.measures["fid"].take(sides)[0] == pytest.approx(9)
    with pytest.raises(MeasureError, match="one by one"):
        PROTOCOLS["clean-fid"].measures["kid"].take(sides)

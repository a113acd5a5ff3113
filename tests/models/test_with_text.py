"""A trained text encoder and the network behind it are one module."""

from __future__ import annotations

import tiny
import torch

from difflab.models.with_text import WithText

pytestmark = tiny.LIBRARIES


def test_both_get_a_gradient_and_the_output_is_that_of_the_network_on_the_embedding():
    tokens = tiny.tokenizer()
    encoder, network = tiny.text_encoder(tokens), tiny.unet(1).eval()
    ids = tokens(["noto seal", ""], padding="max_length", max_length=77, return_tensors="pt").input_ids
    x, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([10, 500])
    out = WithText(network, encoder)(x, t, ids)
    torch.testing.assert_close(out, network(x, t, encoder(ids)[0]).sample)
    out.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert encoder.get_input_embeddings().weight.grad.abs().sum() > 0

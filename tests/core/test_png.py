from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from difflab.core.png import KEYWORD, with_text


def test_pillow_reads_the_text_and_the_same_pixels() -> None:
    pixels, buffer = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    made = with_text(buffer.getvalue(), KEYWORD, '{"a": "ä 猫"}')
    with Image.open(io.BytesIO(made)) as image:
        image.verify()  # the checksums
    with Image.open(io.BytesIO(made)) as image:
        assert image.info["difflab"] == '{"a": "ä 猫"}'
        assert (np.asarray(image) == pixels).all()


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n" + b"x" * 40])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a PNG file"):
        with_text(data, KEYWORD, "x")

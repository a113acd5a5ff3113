"""What is left of a C2PA manifest after common ways to save, change and store an image, and what signing costs.

    python benchmarks/manifests.py

Every cell is the state that `difflab verify` reports for a signed image of 256 px: trusted, invalid (found and refused) or none.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from difflab.data.manifest import Reader, Signer
from difflab.data.signing_key import new_key

KINDS = ("PNG", "JPEG", "WEBP")


def picture() -> Image.Image:
    """Smooth colours with some noise, so that every format has a usual size."""
    y, x = np.mgrid[0:256, 0:256]
    waves = np.stack([np.sin(x / 20), np.cos(y / 30), np.sin((x + y) / 40)], -1)
    noise = np.random.default_rng(0).normal(0, 8, waves.shape)
    return Image.fromarray((waves * 90 + 128 + noise).clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def with_all_metadata(content: bytes, kind: str) -> bytes:
    """Pillow again, with everything that its `info` has: EXIF, XMP, ICC profile, text chunks."""
    image = opened(content)
    return saved(
        image,
        kind,
        **{key: value for key, value in image.info.items() if key in ("exif", "xmp", "icc_profile")},
    )


def by_torchvision(content: bytes, kind: str) -> bytes:
    import torch
    from torchvision.io import decode_image, encode_jpeg, encode_png

    pixels = decode_image(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    return (encode_jpeg if kind == "JPEG" else encode_png)(pixels).numpy().tobytes()


def in_parquet(content: bytes) -> bytes:
    packed = io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": content, "path": None}]}), packed)
    return pq.read_table(packed)["image"][0].as_py()["bytes"]


def in_tar(content: bytes, name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    packed.seek(0)
    with tarfile.open(fileobj=packed) as tar:
        return tar.extractfile(name).read()  # type: ignore[union-attr]


def changed_byte(content: bytes, kind: str) -> bytes:
    changed = bytearray(content)
    changed[200 if kind == "WEBP" else -200] ^= (
        1  # a WebP file ends with its manifest, the others with pixels
    )
    return bytes(changed)


def cut_off(content: bytes) -> bytes:
    return content[: len(content) * 9 // 10]


def ways(content: bytes, kind: str) -> dict[str, Any]:
    name = f"a.{kind.lower()}"
    other = "PNG" if kind != "PNG" else "JPEG"
    return {
        "copied": lambda: content,
        "in a tar file (webdataset)": lambda: in_tar(content, name),
        "in parquet, as bytes": lambda: in_parquet(content),
        "saved again, same format": lambda: saved(opened(content), kind),
        "saved again with EXIF, XMP and ICC": lambda: with_all_metadata(content, kind),
        "saved again by torchvision": lambda: by_torchvision(content, kind),
        "saved in another format": lambda: saved(opened(content), other),
        "resized to half": lambda: saved(opened(content).resize((128, 128)), kind),
        "cropped by 2 pixels": lambda: saved(opened(content).crop((2, 2, 254, 254)), kind),
        "one byte of the pixels changed": lambda: changed_byte(content, kind),
        "download broken off at 90%": lambda: cut_off(content),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        root = Path(home)
        signer = Signer(new_key(root / "key"))
        reader = Reader(root / "key" / "root.pem")
        columns: dict[str, dict[str, str]] = {}
        for kind in KINDS:
            plain = saved(picture(), kind)
            signed = signer.sign(plain, "a", {"generation": 1, "depth": 2})
            columns[kind] = {way: reader.read(made()).state for way, made in ways(signed, kind).items()}
        print("| | " + " | ".join(KINDS) + " |\n| --- | --- | --- | --- |")
        for way in columns["PNG"]:
            print(f"| {way} | " + " | ".join(columns[kind][way] for kind in KINDS) + " |")
        print("\n| | " + " | ".join(KINDS) + " |\n| --- | --- | --- | --- |")
        costs: dict[str, list[str]] = {
            "bytes of the manifest": [],
            "signing, ms": [],
            "reading and checking, ms": [],
        }
        for kind in KINDS:
            plain = saved(picture(), kind)
            signed = signer.sign(plain, "a", {"generation": 1, "depth": 2})
            costs["bytes of the manifest"].append(str(len(signed) - len(plain)))
            for name, work in (
                ("signing, ms", lambda plain=plain: signer.sign(plain, "a", {"generation": 1})),
                ("reading and checking, ms", lambda signed=signed: reader.read(signed)),
            ):
                start = time.perf_counter()
                for _ in range(200):
                    work()
                costs[name].append(f"{(time.perf_counter() - start) * 5:.1f}")
        for name, values in costs.items():
            print(f"| {name} | " + " | ".join(values) + " |")


if __name__ == "__main__":
    main()

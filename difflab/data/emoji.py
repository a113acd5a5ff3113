"""The bundled emoji: the same 1,906 concepts in several drawing styles, a content label and a style label on
each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from difflab.config import Data
from difflab.core.account import Account
from difflab.core.errors import DataError
from difflab.core.files import ASSETS
from difflab.data.content import joined
from difflab.data.decode import channels_of, decode
from difflab.data.source import NO_LABELS, Source, encode_labels

FOLDER = ASSETS / "emoji"
SIZE = 32  # side of the bundled images
STYLES = {  # in the order in which they are read
    "noto": "Noto Emoji, Apache-2.0 (Google)",
    "twemoji": "Twemoji, CC BY 4.0 (Twitter, Inc and other contributors)",
    "fluent": "Fluent Emoji, MIT (Microsoft)",
    "openmoji": "OpenMoji, CC BY-SA 4.0",
}
ATTRIBUTES = ("style", "category", "subcategory", "concept")


@dataclass(frozen=True)
class _EncodedReader:
    """Decodes from the encoded bytes, which are 6 MB for the whole set."""

    encoded: list[bytes]
    keys: list[str]
    size: int
    channels: int

    def __call__(self, index: int) -> np.ndarray:
        return decode(self.encoded[index], self.keys[index], SIZE * SIZE, self.size, self.channels)


def open_emoji(data: Data) -> Source:
    """Emoji at up to 32 px; the class is data.label (style, category, subcategory or concept; default
    category).

    A concept and its twins form one group: pictures of one thing in several styles are near copies, and some
    pictures are identical although the thing has two names (the flags of Norway and of Bouvet Island). Raises
    DataError: unknown label or style, data.image_size above the bundled size, missing asset.
    """
    label, size = data.label or "category", data.image_size or SIZE
    label = "category" if label == NO_LABELS else label
    if label not in ATTRIBUTES:
        raise DataError(
            f"data.label={label} is no attribute of emoji; use one of {', '.join(ATTRIBUTES)}, or {NO_LABELS}"
        )
    if size > SIZE:
        raise DataError(
            f"data.image_size={size}: the bundled emoji are {SIZE} px; use at most data.image_size={SIZE}"
        )
    rows = [row for style in _styles(data.styles) for row in _rows(style)]
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
    present = [style for style in STYLES if any(FOLDER.glob(f"{style}-*.parquet"))]
    if not present:
        raise DataError(
            f"{FOLDER} holds no emoji; reinstall difflab, or build them with: python {FOLDER / 'make.py'}"
        )
    if wanted is None:
        return [
            style for style in present if style != "openmoji"
        ]  # its licence is share-alike: only when asked for
    unknown = [style for style in wanted if style not in present]
    if unknown:
        hint = f"; build it with: python {FOLDER / 'make.py'} --openmoji" if unknown[0] == "openmoji" else ""
        raise DataError(f"data.styles: '{unknown[0]}' is not among {', '.join(present)}{hint}")
    if not wanted:
        raise DataError(
            f"data.styles=[] leaves no image; remove it for all styles, or name some of {', '.join(present)}"
        )
    return [style for style in present if style in wanted]


def _rows(style: str) -> list[dict]:
    return [
        row for path in sorted(FOLDER.glob(f"{style}-*.parquet")) for row in pq.read_table(path).to_pylist()
    ]

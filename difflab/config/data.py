"""The section `data` of a config: the real images, their split, and what counts about their origin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from difflab.config.buckets import EqualArea, parse_buckets
from difflab.config.spec import Spec, read_by
from difflab.core.hashing import digest, file_hash_once
from difflab.core.size import LARGEST, SMALLEST, Size, as_setting, size_of

Side = Annotated[int, Field(ge=SMALLEST, le=LARGEST)]
YOUR_IMAGES = ("imagefolder", "parquet", "hub")
"""Kinds of sources that have an audit; the others ship with difflab."""
AuditLayer = Literal[
    "declared synthetic", "known synthetic", "watermark", "hidden text", "probe", "file name"
]
AUDIT_FILES = ("images.jsonl", "audit.json")
"""The files of the record of an audit: one line per image, and the counts with the share."""


def audit_files(path: str | Path) -> tuple[Path, Path]:
    """The two files of a record, given its folder or one of the files."""
    place = Path(path).expanduser()
    folder = place.parent if place.name in AUDIT_FILES else place
    return folder / AUDIT_FILES[0], folder / AUDIT_FILES[1]


def audit_content(path: str | Path) -> str | None:
    """Hash of the content of a record of an audit; None if a file cannot be read."""
    try:
        return digest([file_hash_once(file) for file in audit_files(path)])
    except (OSError, RuntimeError):
        return None


class Tail(Spec):
    """A long tail of class sizes, imposed on a labelled set. Model collapse loses the tails first."""

    kind: Literal["none", "zipf"] = Field(
        "none",
        description="none = keep the set as it is; zipf = reduce the class of rank r to r^-exponent times "
        "the size of the largest class.",
    )
    exponent: float = Field(
        1.0, ge=0, le=10, description="Exponent of Zipf's law; 0 = the class sizes stay as they are."
    )


class Data(Spec):
    """The real images and their split. The model is never trained on held-out images."""

    source: str = Field(
        "digits",
        description="Source of the real images: digits | emoji | mnist5k | photos | imagefolder:PATH | "
        "parquet:PATH | hub:NAME | exact (draws from the true distribution of the model family).",
    )
    image_size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)] | None = Field(
        None,
        description="Size of the images in pixels: the side of a square, or [H, W]. Images are cropped to "
        "this aspect ratio around their centre and resized; null = the source's own size.",
    )
    buckets: EqualArea | list[Annotated[list[Side], Field(min_length=2, max_length=2)]] | None = Field(
        None,
        description="Train and sample in several sizes: a list of [H, W], or size, step and max_ratio of "
        "sizes of nearly equal area. Each image goes to the bucket with the nearest aspect ratio, is scaled "
        "to cover it and cropped around its centre; null = all images have one size.",
    )
    color: Literal["auto", "L", "RGB"] = Field(
        "auto", description="L = grey; RGB = colour; auto = the default of the source."
    )
    label: str | None = Field(
        None,
        description="Column or attribute of the source that holds the class (emoji: style, category, "
        "subcategory or concept); null = the default of the source, such as the column `label`; none = the "
        "images have no classes.",
    )
    caption_column: str | None = Field(
        None,
        description="Column of a table or metadata file that holds the captions, or suffix of the text "
        "files beside the images (.txt, .caption); null = the first of text, prompt, caption, .txt, "
        ".caption that exists.",
    )
    caption: str | None = Field(
        None,
        description="Template for the captions, in which {class} and {prompt} are replaced by the class and "
        "the caption of each image; null = the captions of the source.",
    )
    styles: list[str] | None = Field(
        None, description="Drawing styles to keep (source emoji only); null = all styles."
    )
    held_out: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="Share of the real images that is held out for the measures, stratified by class. The "
        "model is never trained on them.",
    )
    split_seed: int | None = Field(
        None,
        ge=0,
        lt=2**63,
        description="Seed of tail, limit and the split into train and held-out images; null = the seed of "
        "the run. With a pretrained base, use the split_seed that the base was trained with.",
    )
    train_size: int | None = Field(
        None,
        ge=2,
        description="Number of images in training set 0; null = the whole train split. The rest of the "
        "train split is the reserve for the regime fresh_real.",
    )
    limit: int | None = Field(
        None, ge=4, description="Number of images of the source to use, drawn with split_seed; null = all."
    )
    tail: Tail = Field(default_factory=Tail, description="Long tail of class sizes.")
    bad_images: Literal["error", "skip"] = Field(
        "error",
        description="error = stop at an unreadable image; skip = leave it out, and report how many were "
        "left out.",
    )
    provenance: Literal["trust", "declared", "require"] = Field(
        "declared",
        description="What files declare about their origin (docs/provenance.md): declared = images that "
        "declare a generator count as synthetic; require = every image must declare a real origin, else the "
        "set is refused; trust = nothing is read, all images count as real.",
    )
    unknown_origin: Literal["real", "synthetic"] = Field(
        "real",
        description="How an image that declares nothing about its origin counts in limits, depths and "
        "reports: real = depth 0; synthetic = depth 1. The ledger says unknown in both cases.",
    )
    weight: str | None = Field(
        None,
        description="Column of a table, metadata file or parquet file with the weight of each image in the "
        "loss, a number of at least 0 (difflab audit --weight writes one); null = all images weigh the same.",
    )
    audit: str | None = Field(
        None,
        description="Folder of an audit of these images (difflab audit DATASET --out FOLDER), or a file in "
        "it. What it found counts for images that declare nothing themselves; null = none.",
        json_schema_extra=read_by(),
    )
    audit_content: str | None = Field(
        None,
        description="Hash of the files of the audit, so that the recipe says which content they had; null = "
        "difflab computes it.",
    )
    audit_layers: list[AuditLayer] = Field(
        ["declared synthetic", "known synthetic", "watermark", "hidden text", "probe"],
        min_length=1,
        description="Layers of the audit whose images count as synthetic. All other images that declare "
        "nothing are of unknown origin. The probe also flags some real images.",
    )
    max_pixels: int = Field(
        64_000_000,
        ge=1,
        description="Largest number of pixels of a decoded file. Larger files are refused (decompression "
        "bombs).",
    )

    @field_validator("image_size", mode="before")
    @classmethod
    def _is_size(cls, value: Any) -> Any:
        """One number for a square, so that [64, 64] and 64 are one recipe."""
        return None if value is None else as_setting(size_of(value))

    @field_validator("buckets", mode="before")
    @classmethod
    def _are_buckets(cls, value: Any) -> Any:
        return parse_buckets(value)

    @model_validator(mode="after")
    def _one_of_both(self) -> Data:
        if self.buckets is not None and self.image_size is not None:
            raise ValueError("image_size and buckets are two ways to set the size; remove one of them")
        return self

    @model_validator(mode="before")
    @classmethod
    def _audit_content(cls, raw: Any) -> Any:
        """Fill in audit_content. It stays null if a file does not exist; reading the audit then says so."""
        if not isinstance(raw, dict) or raw.get("audit_content") is not None:
            return raw
        content = audit_content(raw["audit"]) if isinstance(raw.get("audit"), str) else None
        return raw if content is None else raw | {"audit_content": content}

    @model_validator(mode="after")
    def _weight_applies(self) -> Data:
        if self.weight is not None and self.source.partition(":")[0] not in YOUR_IMAGES:
            raise ValueError(f"weight is for your own images; those of source={self.source} have no column")
        return self

    @model_validator(mode="after")
    def _audit_applies(self) -> Data:
        if self.audit is None:
            layers = type(self).model_fields["audit_layers"].default
            if self.audit_content is not None or self.audit_layers != layers:
                raise ValueError("audit_layers and audit_content have no effect without audit")
            return self
        if self.source.partition(":")[0] not in YOUR_IMAGES:
            raise ValueError(
                f"audit is for your own images; the origin of those of source={self.source} is known"
            )
        if self.provenance == "trust":
            raise ValueError("audit has no effect with provenance=trust, which counts all images as real")
        return self

    @property
    def bucket_sizes(self) -> list[Size]:
        """(H, W) of every bucket, from the narrowest to the widest; [] = all images have one size."""
        if isinstance(self.buckets, EqualArea):
            return self.buckets.sizes
        return [size_of(size) for size in self.buckets or []]

    @property
    def size(self) -> Size | None:
        """(H, W) of the images that `image_size` asks for; None = the source's own size."""
        return None if self.image_size is None else size_of(self.image_size)

    def drawn_with(self, seed: int) -> int:
        """The seed that tail, limit and split are drawn with in a run of seed `seed`."""
        return seed if self.split_seed is None else self.split_seed

"""The store: a set of images as parquet shards, and the files that are computed from each shard.

Processes work on whole shards. Resuming and verification go by whole shards too. Shard k holds the images
``k * shard_size ... (k + 1) * shard_size - 1``. Its content does not depend on the process that writes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from difflab.core.errors import StoreError
from difflab.core.files import atomic, read_tensors, write_tensors
from difflab.core.hashing import content_hash
from difflab.core.ragged import each_size, mapped, save, together
from difflab.core.size import Size
from difflab.runs import ledger


class Shards:
    """One set of images (or of records of the exact families) on disk.

    Args:
        folder: folder of the parquet shards.
        derived: folder of the features of each shard.
        cache: folder of decoded pixels. Missing files are made again.
        count: number of images in the set.
        shard_size: number of images in a shard; the last shard can have fewer.
        record: shape of one record: (H, W, C) of uint8 pixels, or (R, d) of float64 values.
        encoded: folder of the latents that models read in place of pixels; None = in the cache.
        sizes: the sizes (H, W) of a set of several sizes, whose arrays are those of `core.ragged`; () = all
            images have the size in `record`.
    """

    def __init__(
        self,
        folder: Path,
        derived: Path,
        cache: Path,
        count: int,
        shard_size: int,
        record: tuple[int, ...],
        encoded: Path | None = None,
        sizes: tuple[Size, ...] = (),
    ):
        self.encoded = encoded or cache
        self.folder, self.derived, self.cache = folder, derived, cache
        self.count, self.shard_size, self.record = count, shard_size, record
        self.images, self.sizes = len(record) == 3, sizes
        self._open: dict[Path, Any] = {}

    def __len__(self) -> int:
        return self.count

    @property
    def shards(self) -> range:
        """The numbers of all shards."""
        return range(-(-self.count // self.shard_size))

    def span(self, shard: int) -> range:
        """Indices of the images of one shard."""
        return range(shard * self.shard_size, min(self.count, (shard + 1) * self.shard_size))

    def path(self, shard: int) -> Path:
        """The parquet file of one shard."""
        return self.folder / f"{shard:05d}.parquet"

    def has(self, shard: int) -> bool:
        """Whether the parquet file of one shard exists."""
        return self.path(shard).exists()

    def complete(self) -> bool:
        """Whether the parquet files of all shards exist."""
        return all(self.has(shard) for shard in self.shards)

    # ------------------------------------------------------------------------------------------- writing
    def write(self, shard: int, pixels: np.ndarray, columns: dict[str, Any]) -> None:
        """Write the shard and its pixel cache.

        Args:
            shard: number of the shard.
            pixels: its records, [n, *record].
            columns: columns of the ledger, see `ledger.table`.

        Raises StoreError if the shape of `pixels` is not that of the shard.
        """
        span = self.span(shard)
        if self.sizes:
            self._check_sizes(shard, pixels)
        elif pixels.shape != (len(span), *self.record):
            raise StoreError(
                f"{self.path(shard)}: got records of shape {pixels.shape}, expected "
                f"{(len(span), *self.record)}"
            )
        rows = ledger.table({"index": list(span), **columns}, pixels, self.images, bool(self.sizes))
        self._cache(shard, pixels)
        with atomic(self.path(shard)) as temporary:
            pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True)

    def _check_sizes(self, shard: int, pixels: np.ndarray) -> None:
        """Raise StoreError unless `pixels` are the images of a shard of a set of several sizes."""
        shapes, span = {(*size, self.record[2]) for size in self.sizes}, self.span(shard)
        wrong = {image.shape for image in pixels} - shapes
        if wrong or len(pixels) != len(span):
            raise StoreError(
                f"{self.path(shard)}: got {len(pixels)} images of the shapes "
                f"{sorted({image.shape for image in pixels})}, expected {len(span)} of {sorted(shapes)}"
            )

    def _cache(self, shard: int, pixels: np.ndarray) -> None:
        save(self._cache_path(shard), pixels)

    def _cache_path(self, shard: int) -> Path:
        return self.cache / f"{shard:05d}.npy"

    # ------------------------------------------------------------------------------------------- reading
    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The ledger rows of one shard. Raises StoreError if the shard is missing or damaged."""
        path = self.path(shard)
        try:
            return pq.read_table(
                path, columns=list(columns) if columns is not None else None, page_checksum_verification=True
            )
        except FileNotFoundError:
            raise StoreError(f"{path} is missing; run the same command again to write it") from None
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{path} is damaged ({' '.join(str(error).split())[:120]}); delete it and run the same "
                "command again"
            ) from error

    def column(self, name: str) -> list[Any]:
        """The values of one column of the ledger for all images of the set, in order."""
        parts = (self.table(shard, [name])[name].to_pylist() for shard in self.shards)
        return list(chain.from_iterable(parts))

    def labels(self) -> np.ndarray | None:
        """The class of each image, int64 [n]; None for a set without classes."""
        labels = self.column("label")
        return None if not labels or labels[0] is None else np.asarray(labels, dtype=np.int64)

    def decode(self, shard: int) -> np.ndarray:
        """The pixels of one shard from its parquet file: [n, *record]."""
        if not self.images:
            values = self.table(shard, ["values"])["values"].combine_chunks()
            return values.flatten().to_numpy().reshape(-1, *self.record)
        blobs = self.table(shard, ["image"])["image"].combine_chunks().field("bytes").to_pylist()
        return together([ledger.decode_png(blob) for blob in blobs])

    @cached_property
    def bucket(self) -> np.ndarray:
        """The position in `sizes` of the size of each image, int64 [n]. For a set of several sizes."""
        position = {size: i for i, size in enumerate(self.sizes)}
        sizes = zip(self.column("height"), self.column("width"), strict=True)
        return np.array([position[size] for size in sizes], dtype=np.int64)

    def pixels(self, shard: int) -> Any:
        """The pixels of one shard, memory-mapped from the cache, [n, *record], or `Ragged`.

        The memory in use does not grow with the set.
        """
        path = self._cache_path(shard)
        if path not in self._open and not path.exists():
            self._cache(shard, self.decode(shard))
        return self._mapped(path)

    def _mapped(self, path: Path) -> Any:
        if path not in self._open:
            self._open[path] = mapped(path)
        return self._open[path]

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """The images at `indices`, [len(indices), *record]."""
        if self.sizes:
            return self._gather_each(self.pixels, indices)
        return self._gather(
            self.pixels, indices, self.record, np.dtype(np.uint8 if self.images else np.float64)
        )

    def _gather(
        self, read: Callable[[int], np.ndarray], indices: np.ndarray, record: tuple[int, ...], kind: np.dtype
    ) -> np.ndarray:
        gathered = np.empty((len(indices), *record), dtype=kind)
        shards, offsets = np.divmod(indices, self.shard_size)
        for shard in np.unique(shards):
            in_shard = shards == shard
            gathered[in_shard] = read(int(shard))[offsets[in_shard]]
        return gathered

    def _gather_each(self, read: Callable[[int], Any], indices: np.ndarray) -> np.ndarray:
        """The same for a set of several sizes."""
        shards, offsets = np.divmod(indices, self.shard_size)
        pairs = zip(shards.tolist(), offsets.tolist(), strict=True)
        return together([np.array(read(shard)[offset]) for shard, offset in pairs])

    # ------------------------------------------------------------------------------------------- encoded
    def encode(self, encoder: Any, shard: int, pixels: np.ndarray | None = None) -> None:
        """Write the encoded images of one shard, unless the file exists.

        Args:
            encoder: maps uint8 [n, H, W, C] to a tensor [n, ...]. Its attribute ``key`` names the file.
            shard: number of the shard.
            pixels: the pixels of the shard; None = they are read from its parquet file.
        """
        path = self._encoded_path(encoder.key, shard)
        if not path.exists():
            source = self.decode(shard) if pixels is None else pixels
            save(path, each_size(source, lambda part: encoder(torch.from_numpy(np.array(part))).numpy()))

    def lacks(self, key: str) -> list[int]:
        """The shards without encoded images for this key."""
        return [shard for shard in self.shards if not self._encoded_path(key, shard).exists()]

    def gather_encoded(self, key: str, indices: np.ndarray) -> np.ndarray:
        """The encoded images at `indices`, [len(indices), ...], copied from memory-mapped files."""
        if self.sizes:
            return self._gather_each(lambda shard: self._mapped(self._encoded_path(key, shard)), indices)
        first = self._mapped(self._encoded_path(key, int(indices[0]) // self.shard_size))
        return self._gather(
            lambda shard: self._mapped(self._encoded_path(key, shard)), indices, first.shape[1:], first.dtype
        )

    def _encoded_path(self, key: str, shard: int) -> Path:
        return self.encoded / f"{key}-{shard:05d}.npy"

    # ------------------------------------------------------------------------------------------- derived
    def feature_path(self, name: str, shard: int) -> Path:
        """The file of the features `name` of one shard."""
        return self.derived / f"{name}-{shard:05d}.safetensors"

    def derive(self, name: str, shard: int, compute: Any, pixels: np.ndarray | None = None) -> None:
        """Write the features `name` of one shard, unless the file exists.

        Args:
            name: key of the extractor. It names the file.
            shard: number of the shard.
            compute: maps uint8 [n, H, W, C] to features [n, d].
            pixels: the pixels of the shard; None = they are read from its parquet file.
        """
        path = self.feature_path(name, shard)
        if not path.exists():
            source = self.decode(shard) if pixels is None else pixels
            features = each_size(source, lambda part: compute(torch.from_numpy(np.array(part))).numpy())
            write_tensors(path, {"features": torch.from_numpy(features)})

    def features(self, name: str) -> torch.Tensor:
        """The features of the whole set, float32 [n, d]."""
        return torch.cat([read_tensors(self.feature_path(name, shard))["features"] for shard in self.shards])

    # ------------------------------------------------------------------------------------ identity, check
    def hash(self) -> str:
        """SHA-256 of the content hashes of all images in order."""
        return hashlib.sha256("".join(self.column("sha256")).encode()).hexdigest()

    def verify(self) -> Iterator[str]:
        """Yield a sentence for every missing or damaged shard."""
        for shard in self.shards:
            path = self.path(shard)
            try:
                rows = self.table(shard)
                wanted = list(self.span(shard))
                has_origins, has_weights = (name in rows.column_names for name in ("origin", "weight"))
                schema = ledger.schema(self.images, bool(self.sizes), has_origins, has_weights)
                # The schema is in the footer of the file, which page checksums do not cover.
                if not rows.schema.equals(schema) or rows.schema.metadata != schema.metadata:
                    yield f"{path}: its columns are not those of the ledger"
                    continue
                if rows["index"].to_pylist() != wanted:
                    yield f"{path}: contains other images than {wanted[0]}..{wanted[-1]}"
                    continue
                hashes = rows["sha256"].to_pylist()
                for row, pixels in enumerate(self.decode(shard)):
                    if content_hash(pixels) != hashes[row]:
                        yield f"{path}: image {wanted[row]} differs from its content hash"
                        break
            except StoreError as error:
                yield str(error)
            except Exception as error:  # the decoder can raise any error for a damaged image
                yield f"{path}: an image no longer decodes ({type(error).__name__})"

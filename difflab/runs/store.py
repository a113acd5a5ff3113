"""The store: a set of images as parquet shards, and whatever is derived from it shard by shard.

A shard is the unit of everything: of one process's work, of resuming, of verification. Shard k holds the
images ``k * shard_size ...``; which process wrote it is of no consequence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
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
from difflab.runs import ledger


def _save(path: Path, array: np.ndarray) -> None:
    with atomic(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


class Shards:
    """One set of images (or of records of the exact families) on disk.

    Args:
        folder: where the parquet shards lie.
        derived: folder of what is computed per shard (features); kept.
        cache: folder of decoded pixels; disposable.
        count: images in the set.
        shard_size: images per shard.
        record: shape of one record: (H, W, C) of uint8 pixels, or (R, d) of float64 values.
        encoded: folder of what models read instead of pixels (latents); disposable; None = in the cache.
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
    ):
        self.encoded = encoded or cache
        self.folder, self.derived, self.cache = folder, derived, cache
        self.count, self.shard_size, self.record = count, shard_size, record
        self.images = len(record) == 3
        self._open: dict[Path, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    @property
    def shards(self) -> range:
        return range(-(-self.count // self.shard_size))

    def span(self, shard: int) -> range:
        """Indices of the images of one shard."""
        return range(shard * self.shard_size, min(self.count, (shard + 1) * self.shard_size))

    def path(self, shard: int) -> Path:
        return self.folder / f"{shard:05d}.parquet"

    def has(self, shard: int) -> bool:
        return self.path(shard).exists()

    def complete(self) -> bool:
        return all(self.has(shard) for shard in self.shards)

    # ------------------------------------------------------------------------------------------- writing
    def write(self, shard: int, pixels: np.ndarray, columns: dict[str, Any]) -> None:
        """Write one shard from pixels in memory: [n, *record]. The pixel cache is filled on the way."""
        span = self.span(shard)
        if pixels.shape != (len(span), *self.record):
            raise StoreError(
                f"{self.path(shard)}: got records of shape {pixels.shape}, expected "
                f"{(len(span), *self.record)}"
            )
        rows = ledger.table({"index": list(span), **columns}, pixels, self.images)
        self._cache(shard, pixels)
        with atomic(self.path(shard)) as temporary:
            pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True)

    def _cache(self, shard: int, pixels: np.ndarray) -> None:
        _save(self._cache_path(shard), pixels)

    def _cache_path(self, shard: int) -> Path:
        return self.cache / f"{shard:05d}.npy"

    # ------------------------------------------------------------------------------------------- reading
    def table(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The ledger rows of one shard. Raises StoreError that names a missing or damaged shard."""
        path = self.path(shard)
        try:
            return pq.read_table(
                path, columns=list(columns) if columns is not None else None, page_checksum_verification=True
            )
        except FileNotFoundError:
            raise StoreError(f"{path} is missing; run the same command again to make it anew") from None
        except (OSError, pa.ArrowException) as error:
            raise StoreError(
                f"{path} is damaged ({' '.join(str(error).split())[:120]}); delete it and run the same "
                "command again"
            ) from error

    def column(self, name: str) -> list[Any]:
        """One column over the whole set, in order of the index."""
        parts = (self.table(shard, [name])[name].to_pylist() for shard in self.shards)
        return list(chain.from_iterable(parts))

    def labels(self) -> np.ndarray | None:
        """int64 [n], or None for an unlabelled set."""
        labels = self.column("label")
        return None if not labels or labels[0] is None else np.asarray(labels, dtype=np.int64)

    def decode(self, shard: int) -> np.ndarray:
        """The pixels of one shard from its parquet file: [n, *record]."""
        if not self.images:
            values = self.table(shard, ["values"])["values"].combine_chunks()
            return values.flatten().to_numpy().reshape(-1, *self.record)
        blobs = self.table(shard, ["image"])["image"].combine_chunks().field("bytes").to_pylist()
        return np.stack([ledger.decode_png(blob) for blob in blobs])

    def pixels(self, shard: int) -> np.ndarray:
        """The pixels of one shard, memory-mapped from the cache: memory does not grow with the set."""
        path = self._cache_path(shard)
        if path not in self._open and not path.exists():
            self._cache(shard, self.decode(shard))
        return self._mapped(path)

    def _mapped(self, path: Path) -> np.ndarray:
        if path not in self._open:
            self._open[path] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self._open[path]

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """Any images of the set: [len(indices), *record]."""
        return self._gather(
            self.pixels, indices, self.record, np.dtype(np.uint8 if self.images else np.float64)
        )

    def _gather(
        self, read: Callable[[int], np.ndarray], indices: np.ndarray, record: tuple[int, ...], kind: np.dtype
    ) -> np.ndarray:
        out = np.empty((len(indices), *record), dtype=kind)
        shards, offsets = np.divmod(indices, self.shard_size)
        for shard in np.unique(shards):
            at = shards == shard
            out[at] = read(int(shard))[offsets[at]]
        return out

    # ------------------------------------------------------------------------------------------- encoded
    def encode(self, encoder: Any, shard: int, pixels: np.ndarray | None = None) -> None:
        """Make sure that what `encoder` (it has a ``key``) makes of one shard is there; `pixels` are those in
        memory, if they are.
        """
        path = self._encoded_path(encoder.key, shard)
        if not path.exists():
            _save(
                path,
                encoder(torch.from_numpy(np.array(self.decode(shard) if pixels is None else pixels))).numpy(),
            )

    def lacks(self, key: str) -> list[int]:
        """Shards that no encoder of this key has read yet."""
        return [shard for shard in self.shards if not self._encoded_path(key, shard).exists()]

    def gather_encoded(self, key: str, indices: np.ndarray) -> np.ndarray:
        """What an encoder made of any images of the set, memory-mapped: float32 [len(indices), ...]."""
        first = self._mapped(self._encoded_path(key, int(indices[0]) // self.shard_size))
        return self._gather(
            lambda shard: self._mapped(self._encoded_path(key, shard)), indices, first.shape[1:], first.dtype
        )

    def _encoded_path(self, key: str, shard: int) -> Path:
        return self.encoded / f"{key}-{shard:05d}.npy"

    # ------------------------------------------------------------------------------------------- derived
    def feature_path(self, name: str, shard: int) -> Path:
        return self.derived / f"{name}-{shard:05d}.safetensors"

    def derive(self, name: str, shard: int, compute: Any, pixels: np.ndarray | None = None) -> None:
        """Make sure that the features `name` of one shard exist; `compute` maps uint8 [n, H, W, C] tensors to
        [n, d].
        """
        path = self.feature_path(name, shard)
        if not path.exists():
            source = self.decode(shard) if pixels is None else pixels
            write_tensors(path, {"features": compute(torch.from_numpy(np.array(source)))})

    def features(self, name: str) -> torch.Tensor:
        """Features of the whole set: float32 [n, d]."""
        return torch.cat([read_tensors(self.feature_path(name, shard))["features"] for shard in self.shards])

    # ------------------------------------------------------------------------------------ identity, check
    def hash(self) -> str:
        """Hash of the set: over the content hashes of its images in order."""
        return hashlib.sha256("".join(self.column("sha256")).encode()).hexdigest()

    def verify(self) -> Iterator[str]:
        """Yield one line for every missing or damaged shard."""
        for shard in self.shards:
            path = self.path(shard)
            try:
                rows = self.table(shard)
                wanted = list(self.span(shard))
                schema = ledger.schema(self.images)
                if (
                    not rows.schema.equals(schema) or rows.schema.metadata != schema.metadata
                ):  # page checksums do not cover the footer
                    yield f"{path}: its columns are not those of the ledger"
                    continue
                if rows["index"].to_pylist() != wanted:
                    yield f"{path}: holds other images than {wanted[0]}..{wanted[-1]}"
                    continue
                hashes = rows["sha256"].to_pylist()
                for row, pixels in enumerate(self.decode(shard)):
                    if content_hash(pixels) != hashes[row]:
                        yield f"{path}: image {wanted[row]} differs from its content hash"
                        break
            except StoreError as error:
                yield str(error)
            except (
                Exception
            ) as error:  # a blob that no longer decodes is damage too, whatever the decoder raises
                yield f"{path}: an image no longer decodes ({type(error).__name__})"

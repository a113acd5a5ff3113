"""The origin and the depth of images of a run: the columns origin, depth and declared_by.

The depth of an image is the number of models between it and real images: 0 for a real image, d + 1 for a
sample of a model whose training set has the largest depth d. The mean depth of a set of samples is 1 plus the
mean, over the rows of that training set, of their mean depths. Runs that an older version of difflab stored
have none of these columns. Their images count as they did then: imported images are real, and a sample of
generation t has the depth that follows from the training sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from difflab.core.errors import StoreError
from difflab.core.files import read_json
from difflab.runs.folder import RunFolder
from difflab.runs.ledger import REAL
from difflab.runs.store import Shards

COLUMNS = ("origin", "depth", "declared_by")
TYPES = {"origin": pa.string(), "depth": pa.int32(), "declared_by": pa.string()}
BUNDLED = frozenset(("digits", "emoji", "mnist5k", "photos", "exact"))
"""Sources whose images ship with difflab or are drawn by it from the true distribution."""
BY_RUN = "run"
"""`declared_by` of the samples of a run."""


@dataclass(frozen=True)
class Composition:
    """What a training set consists of.

    Attributes:
        images: number of rows.
        origins: origin -> rows that declare it.
        depths: depth -> rows that count with it, by ascending depth. Depth 0 are the rows that count as real.
        mean_depth: mean over the rows of their mean depths.
    """

    images: int
    origins: dict[str, int]
    depths: dict[int, int]
    mean_depth: float

    @property
    def synthetic_share(self) -> float:
        """Share of the rows that count as synthetic, 0 to 1."""
        return 1 - self.depths.get(0, 0) / self.images if self.images else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The composition for JSON. The depths are texts, as JSON requires of keys."""
        return {
            "images": self.images,
            "origins": self.origins,
            "depths": {str(depth): count for depth, count in self.depths.items()},
            "synthetic_share": self.synthetic_share,
            "mean_depth": self.mean_depth,
        }


@dataclass(frozen=True)
class Evidence:
    """What is known about the origin of the real set besides its depths.

    Attributes:
        unknown: whether the origin of each image is unknown, bool [n]: the train split first.
        audit: the summary of the audit of the source (`data.audited.Audited.summary`); None without one.
    """

    unknown: np.ndarray
    audit: dict[str, Any] | None = None


def counted(origin: Sequence[str | None], depth: Sequence[int | None], unknown_origin: str) -> np.ndarray:
    """The depth of each image as limits and reports count it, int64 [n]; 0 = it counts as real.

    >>> counted(["real", "synthetic", "unknown"], [0, 4, None], "synthetic").tolist()
    [0, 4, 1]

    Args:
        origin, depth: columns of the ledger.
        unknown_origin: the value of data.unknown_origin.
    """
    depth_of = {"real": 0, "unknown": int(unknown_origin == "synthetic")}
    pairs = zip(origin, depth, strict=True)
    return np.array([depth_of.get(o or "unknown", d or 1) for o, d in pairs], dtype=np.int64)


def origins_of(shards: Shards, default: dict[str, Any]) -> pa.Table:
    """The columns `COLUMNS` of all images of a set. `default`: their values where a shard has no columns."""
    tables = []
    for shard in shards.shards:
        try:
            has_columns = set(COLUMNS) <= set(pq.read_schema(shards.path(shard)).names)
        except (OSError, pa.ArrowException):
            has_columns = True  # reading the shard raises an error that names it
        if has_columns:
            table = shards.table(shard, COLUMNS)
            columns = {name: table[name].cast(kind) for name, kind in TYPES.items()}
        else:
            count = len(shards.span(shard))
            columns = {name: pa.array([default[name]] * count, kind) for name, kind in TYPES.items()}
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def real_origins(run: RunFolder) -> pa.Table:
    """The columns `COLUMNS` of the real set: the train split, then the held-out images."""
    if run.config.data.source.partition(":")[0] in BUNDLED:
        default = {"origin": "real", "depth": 0, "declared_by": "bundled"}
    else:
        default = {"origin": "unknown", "depth": None, "declared_by": "none"}
    return origins_of(run.real, default)


def real_depths(run: RunFolder) -> np.ndarray:
    """The counted depth of each image of the real set, int64 [n]."""
    table = real_origins(run)
    columns = (table["origin"].to_pylist(), table["depth"].to_pylist())
    return counted(*columns, run.config.data.unknown_origin)


def evidence_of(run: RunFolder) -> Evidence:
    """The evidence about the real set of a run."""
    unknown = pc.equal(real_origins(run)["origin"], "unknown").to_numpy()
    return Evidence(unknown, run.about.get("audit"))


Known = dict[tuple[int, int], tuple[int, float]]
"""(lab, generation) -> depth and mean depth of its samples, so that no training set is read twice."""


def sample_depth(run: RunFolder, generation: int, known: Known | None = None) -> tuple[int, float]:
    """The depth of the samples of a generation, and their mean depth."""
    known = {} if known is None else known
    key = (run.config.lab, generation)
    if key not in known:
        known[key] = _stored_depth(run, generation) or depth_after(run, generation, known)
    return known[key]


def _stored_depth(run: RunFolder, generation: int) -> tuple[int, float] | None:
    path = run.gen(generation) / "sampled.json"
    if path.exists():
        record = read_json(path)
        if isinstance(record, dict) and {"depth", "mean_depth"} <= record.keys():
            return int(record["depth"]), float(record["mean_depth"])
    return None


def depth_after(run: RunFolder, generation: int, known: Known | None = None) -> tuple[int, float]:
    """The depth and the mean depth of samples of the model of a generation, from its training set."""
    depths, means = row_depths(run, read_rows(run, generation), known)
    return int(depths.max()) + 1, float(means.mean()) + 1


def read_rows(run: RunFolder, generation: int) -> pa.Table:
    """The rows of a training set. Raises StoreError if the file is missing or damaged."""
    path = run.gen(generation) / "train_set.parquet"
    try:
        rows = pq.read_table(path, page_checksum_verification=True)
        rows.select(["generation", "index"])  # their names are in the footer, which has no checksum
        return rows
    except (OSError, pa.ArrowException, KeyError) as error:
        raise StoreError(
            f"{path} cannot be read ({type(error).__name__}); delete it and run the same command again"
        ) from error


def row_depths(run: RunFolder, rows: pa.Table, known: Known | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The counted depth of each row of a training set, int64 [n], and its mean depth, float64 [n].

    A row that points at a sample has the depths of the set of samples. Both depths of a real image are equal.
    """
    generation, index = rows["generation"].to_numpy(), rows["index"].to_numpy()
    lab = rows["lab"].to_numpy() if "lab" in rows.column_names else np.full(len(rows), run.config.lab)
    depths, means = np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows))
    real = generation == REAL
    if real.any():
        depths[real] = means[real] = real_depths(run)[index[real]]
    known = {} if known is None else known
    pairs = {(int(g), int(k)) for g, k in zip(generation[~real], lab[~real], strict=True)}
    for of_generation, of_lab in sorted(pairs):
        here = (generation == of_generation) & (lab == of_lab)
        depths[here], means[here] = sample_depth(run.labs[of_lab], of_generation, known)
    return depths, means


def with_origins(run: RunFolder, rows: pa.Table) -> pa.Table:
    """The rows of a training set with the columns `COLUMNS` of the images that they point at."""
    depths, _ = row_depths(run, rows)
    real = rows["generation"].to_numpy() == REAL
    table = real_origins(run)
    taken = table.take(pa.array(np.where(real, rows["index"].to_numpy(), 0)))
    is_real = pa.array(real)
    values = {"origin": "synthetic", "depth": pa.array(depths, pa.int32()), "declared_by": BY_RUN}
    for name in COLUMNS:
        column = pc.if_else(is_real, taken[name].combine_chunks(), values[name])
        rows = rows.append_column(name, column.cast(TYPES[name]))
    return rows


def composition(run: RunFolder, generation: int) -> Composition:
    """What the training set of a generation consists of."""
    rows = read_rows(run, generation)
    if not set(COLUMNS) <= set(rows.column_names):
        rows = with_origins(run, rows)
    depths, means = row_depths(run, rows)
    return Composition(
        images=len(rows),
        origins=dict(Counter(rows["origin"].to_pylist())),
        depths=dict(sorted(Counter(depths.tolist()).items())),
        mean_depth=float(means.mean()) if len(rows) else 0.0,
    )

"""Labels of images of the audited set: a CSV file with the columns file_name and label."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from difflab.core.errors import DataError
from difflab.core.files import read_text
from difflab.core.suggest import closest

VALUES = {"synthetic": True, "real": False, "1": True, "0": False}


def read_labels(path: Path, keys: Iterable[str]) -> dict[str, bool]:
    """Key of an image -> whether it is synthetic.

    Rows with an empty label are left out, so that a list of images can be labelled step by step.

    Raises DataError for a missing column, another label than real or synthetic, an image that is not in the
    set or is labelled twice, and a file without a label.

    Args:
        keys: of the images in the set: the path below the folder, or FILE/ROW in parquet files.
    """
    rows = csv.DictReader(io.StringIO(read_text(path.expanduser()), newline=""))
    columns = rows.fieldnames or []
    missing = [name for name in ("file_name", "label") if name not in columns]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]} (its columns: {', '.join(columns) or 'none'}); its first "
            "line must be "
            "file_name,label"
        )
    known, found = set(keys), dict[str, bool]()
    for row in rows:
        key, label = row["file_name"] or "", (row["label"] or "").strip().lower()
        where = f"{path}, line {rows.line_num}"
        if not label:
            continue
        if label not in VALUES:
            raise DataError(f"{where}: the label must be real or synthetic, not {label[:40]!r}")
        if key not in known:
            near = closest(key, known, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"{where}: {key[:200]!r} is not an image of the set{hint}")
        if key in found:
            raise DataError(f"{where}: {key!r} is labelled twice; keep one line")
        found[key] = VALUES[label]
    if not found:
        raise DataError(f"{path} labels no image; write real or synthetic in the column label")
    return found


def counted(labels: Mapping[str, bool], flags: Mapping[str, bool]) -> tuple[int, int, int, int]:
    """The four counts of `difflab.metrics.prevalence.Labelled`, of the labelled images that have a flag."""
    flagged = [synthetic for key, synthetic in labels.items() if flags.get(key) is True]
    other = [synthetic for key, synthetic in labels.items() if flags.get(key) is False]
    return sum(flagged), len(flagged), sum(other), len(other)

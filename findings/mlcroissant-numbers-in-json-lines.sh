#!/usr/bin/env bash
# mlcroissant 1.1.1: text fields that are read from JSON lines change if the texts look like numbers.
#
# A Croissant file describes metadata.jsonl with two fields of the type sc:Text. The file has the class "007" and the hash
# "12345e678901". Expected: the records have these texts, since JSON marks them as strings and Croissant as text. Observed:
# the class is "7" and the hash is "inf". The same fields from a parquet file are unchanged.
#
# Why it matters: hashes of hexadecimal digits, product numbers and class names such as "007" are lost, and records no longer
# match their source. It depends on the other rows: one text that is no number keeps the whole column as text.
#
# Output seen:
#   mlcroissant 1.1.1, pandas 3.1.1
#   JSON lines: ('7', 'inf')
#   parquet:    ('007', '12345e678901')
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -qq --disable-pip-version-check mlcroissant==1.1.1 pandas==3.1.1 pyarrow==26.0.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import hashlib
import json
import logging
import pathlib
from importlib.metadata import version

import mlcroissant
import pandas

logging.disable(logging.WARNING)
print(f"mlcroissant {version('mlcroissant')}, pandas {pandas.__version__}")
row = {"class": "007", "hash": "12345e678901"}
pathlib.Path("metadata.jsonl").write_text(json.dumps(row) + "\n")
pandas.DataFrame([row]).to_parquet("metadata.parquet")


def read(name, kind):
    sha256 = hashlib.sha256(pathlib.Path(name).read_bytes()).hexdigest()
    table = mlcroissant.FileObject(id="table", name=name, content_url=name, encoding_formats=[kind], sha256=sha256)
    fields = [
        mlcroissant.Field(
            id=f"rows/{column}",
            name=column,
            data_types=mlcroissant.DataType.TEXT,
            source=mlcroissant.Source(file_object="table", extract=mlcroissant.Extract(column=column)),
        )
        for column in row
    ]
    rows = mlcroissant.RecordSet(id="rows", name="rows", fields=fields)
    metadata = mlcroissant.Metadata(name="trial", distribution=[table], record_sets=[rows])
    pathlib.Path("croissant.json").write_text(json.dumps(metadata.to_json(), default=str))
    [record] = mlcroissant.Dataset(jsonld="croissant.json").records("rows")
    return tuple(record[f"rows/{column}"].decode() for column in row)


lines, parquet = read("metadata.jsonl", "application/jsonlines"), read("metadata.parquet", "application/x-parquet")
print("JSON lines:", lines)
print("parquet:   ", parquet)
assert parquet == ("007", "12345e678901")
assert lines == ("7", "inf"), "texts of JSON lines stay texts now"
EOF

"""The data card of an exported set: croissant.json with records.parquet, and README.md.

``croissant.json`` follows Croissant 1.1 (MLCommons, 2026-01-29). Its records come from ``records.parquet``
and not from ``metadata.jsonl``: readers of JSON lines turn texts that look like numbers into numbers, and a
hash such as 12345e678901 would become infinite.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from difflab.core.hashing import file_hash
from difflab.runs.ledger import REAL
from difflab.runs.origins import composition, read_rows, sample_depth
from difflab.runs.run import Run

CROISSANT, RECORDS, README = "croissant.json", "records.parquet", "README.md"
METADATA = "metadata.jsonl"
ROWS = 10_000
"""Rows of records.parquet that are in memory at once."""
VERSION = "http://mlcommons.org/croissant/1.1"
FIELDS: dict[str, tuple[Any, str, str]] = {
    "file_name": (pa.string(), "Text", "name of the image file"),
    "text": (pa.string(), "Text", "caption, or else the name of the class"),
    "label": (pa.int64(), "Integer", "number of the requested class; empty = none was requested"),
    "class": (pa.string(), "Text", "name of the requested class"),
    "prompt": (pa.string(), "Text", "caption that the model was conditioned on"),
    "seed": (pa.int64(), "Integer", "seed of the noise of this image"),
    "generation": (pa.int64(), "Integer", "generation of the chain whose model drew the image"),
    "flag": (pa.string(), "Text", "constant = an image of one colour"),
    "sha256": (pa.string(), "Text", "hash of shape and pixels, whatever the encoding of the file"),
    "origin": (pa.string(), "Text", "real, synthetic or unknown"),
    "depth": (pa.int64(), "Integer", "number of models between the image and real images"),
    "declared_by": (pa.string(), "Text", "who states the origin; run = the run that drew the image"),
    "kind": (pa.string(), "Text", "real or synthetic"),
    "model_hash": (pa.string(), "Text", "hash of the weights that drew the image"),
    "parents_hash": (pa.string(), "Text", "hash of the training set of these weights"),
    "set_hash": (pa.string(), "Text", "hash of all samples of the generation"),
    "recipe": (pa.string(), "Text", "hash of the settings of the run that determine its numbers"),
}
"""Columns of a record: type in the table, type of schema.org, meaning."""
PROPERTIES = {"model_hash": "prov:wasAttributedTo", "parents_hash": "prov:wasDerivedFrom"}
SETS = {
    "generation": ("Integer", "generation of the model that was trained on this set"),
    "images": ("Integer", "number of rows of the training set"),
    "synthetic_share": ("Float", "share of the rows that count as synthetic, 0 to 1"),
    "unknown": ("Integer", "rows whose origin is unknown"),
    "mean_depth": ("Float", "mean number of models between a row and real images"),
}
OF_OTHER_LABS = {"other_labs": ("Float", "share of the rows that other labs of the ecosystem drew, 0 to 1")}
"""Column of the training sets of an ecosystem."""
TERMS = (
    *("citeAs", "column", "extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "separator", "source", "subField", "transform", "arrayShape", "containedIn"),
    *("equivalentProperty", "isArray", "samplingRate"),
)
"""Terms of Croissant in the context of a card."""
SIZES = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class DataCard:
    """What a card says about the samples of one generation.

    Attributes:
        run, generation: which samples.
        count: number of images.
        set_hash: hash of all samples of the generation.
        model_hash: hash of the weights that drew them.
        parents_hash: hash of the training set of these weights.
    """

    run: Run
    generation: int
    count: int
    set_hash: str
    model_hash: str
    parents_hash: str

    @property
    def title(self) -> str:
        return f"{self.run.config.name}-generation-{self.generation}"

    @cached_property
    def depth(self) -> int:
        """Number of models between the samples and real images."""
        return sample_depth(self.run, self.generation)[0]

    @cached_property
    def sets(self) -> dict[str, tuple[str, str]]:
        """The columns of `training_sets`: type of schema.org, meaning."""
        return SETS if self.run.config.ecosystem is None else SETS | OF_OTHER_LABS

    @cached_property
    def training_sets(self) -> list[dict[str, Any]]:
        """What the training set of each generation consists of, with the keys of `sets`."""
        rows = []
        for t in range(self.generation + 1):
            made_of = composition(self.run, t)
            rows.append(
                {
                    "generation": t,
                    "images": made_of.images,
                    "synthetic_share": round(made_of.synthetic_share, 6),
                    "unknown": made_of.origins.get("unknown", 0),
                    "mean_depth": round(made_of.mean_depth, 6),
                }
            )
            if self.run.config.ecosystem is not None:
                rows[-1]["other_labs"] = self._share_of_other_labs(t)
        return rows

    def _share_of_other_labs(self, generation: int) -> float:
        """Share of the rows of a training set that are samples of other labs."""
        rows = read_rows(self.run, generation)
        samples = rows["generation"].to_numpy() != REAL
        return round(float((samples & (rows["lab"].to_numpy() != self.run.config.lab)).mean()), 6)

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Name and licence of the real images, and of the pretrained base if there is one."""
        about = self.run.about
        data = {
            "name": f"real images of {about.get('source') or self.run.config.data.source}",
            "license": about.get("licence") or "unknown",
        }
        base = getattr(self.run.config.model, "base", None)
        if base is None:
            return [data]
        licence = "Apache-2.0, see its NOTICE" if base == "tiny-sd" else "unknown, see its model card"
        return [data, {"name": f"pretrained base {base}", "license": licence}]

    def write(self, folder: Path) -> None:
        """Write croissant.json and README.md to `folder`, which has records.parquet."""
        card = json.dumps(self.croissant(file_hash(folder / RECORDS)), indent=2, ensure_ascii=False)
        (folder / CROISSANT).write_text(card + "\n", encoding="utf-8", newline="\n")
        (folder / README).write_text(self.readme(), encoding="utf-8", newline="\n")

    # ------------------------------------------------------------------------------------------ Croissant
    def croissant(self, hash_of_records: str) -> dict[str, Any]:
        """The card as JSON-LD."""
        now = datetime.now(UTC).date().isoformat()
        urn = f"urn:difflab:set:{self.set_hash}"
        return {
            "@context": _context(),
            "@type": "sc:Dataset",
            "conformsTo": VERSION,
            "name": self.title,
            "description": self.sentence,
            "url": urn,
            "version": "1.0.0",
            "datePublished": now,
            "license": "unknown",
            "citeAs": f"Samples of generation {self.generation} of the difflab run {self.run.config.name}",
            "creator": {"@type": "sc:Organization", "name": f"difflab {version('difflab')}"},
            "keywords": ["synthetic", "difflab", f"generation {self.generation}"],
            **self.provenance(),
            "distribution": [
                {
                    "@type": "cr:FileObject",
                    "@id": "records",
                    "name": RECORDS,
                    "contentUrl": RECORDS,
                    "encodingFormat": "application/x-parquet",
                    "sha256": hash_of_records,
                },
                {
                    "@type": "cr:FileSet",
                    "@id": "images",
                    "name": "images",
                    "encodingFormat": "image/png",
                    "includes": "*.png",
                },
            ],
            "recordSet": [self._samples(), self._training_sets()],
        }

    @property
    def sentence(self) -> str:
        """One paragraph about the set."""
        share = self.training_sets[-1]["synthetic_share"]
        return (
            f"{self.count} images drawn by a generative model, all of them synthetic. They are the samples "
            f"of generation {self.generation} of the difflab run {self.run.config.name}; there are "
            f"{self.depth} models between them and real images. {share:.1%} of the training set of their "
            f"model counts as synthetic.{self._of_lab}"
        )

    @property
    def _of_lab(self) -> str:
        """A sentence on the ecosystem of the run; "" without one."""
        ecosystem = self.run.config.ecosystem
        if ecosystem is None:
            return ""
        other = self.training_sets[-1]["other_labs"]
        return (
            f" The model is that of lab {self.run.config.lab} of an ecosystem of {ecosystem.count} labs, "
            f"which train on each other's samples: {other:.1%} of the training set were drawn by other labs."
        )

    def provenance(self) -> dict[str, Any]:
        """Dataset properties of PROV-O: what the set comes from, what made it, and which weights."""
        weights = {"@type": "prov:SoftwareAgent", "@id": f"urn:difflab:weights:{self.model_hash}"}
        parents = {
            "@type": "prov:Entity",
            "@id": f"urn:difflab:set:{self.parents_hash}",
            "name": f"training set of generation {self.generation}",
        }
        run = self.run
        return {
            "prov:wasDerivedFrom": [parents, *({"@type": "prov:Entity", **part} for part in self.sources)],
            "prov:wasGeneratedBy": {
                "@type": "prov:Activity",
                "@id": f"urn:difflab:recipe:{run.recipe}:generation:{self.generation}",
                "name": f"sampling of generation {self.generation} of the run {run.config.name}",
                "description": f"recipe {run.recipe}, seed {run.config.seed}, lab {run.config.lab}",
                "prov:wasAssociatedWith": weights,
            },
            "prov:wasAttributedTo": weights,
        }

    def _samples(self) -> dict[str, Any]:
        fields = []
        for name, (_, kind, meaning) in FIELDS.items():
            field = _field(f"samples/{name}", kind, meaning)
            field["source"] = {"fileObject": {"@id": "records"}, "extract": {"column": name}}
            if name in PROPERTIES:
                field["equivalentProperty"] = PROPERTIES[name]
            if name == "file_name":
                field["references"] = {
                    "fileSet": {"@id": "images"},
                    "extract": {"fileProperty": "filename"},
                }
            fields.append(field)
        image = _field("samples/image", "ImageObject", "the picture")
        image["source"] = {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "content"}}
        return {
            "@type": "cr:RecordSet",
            "@id": "samples",
            "key": {"@id": "samples/file_name"},
            "description": "One record per image, with its origin.",
            "field": [*fields, image],
        }

    def _training_sets(self) -> dict[str, Any]:
        rows = [{f"training_sets/{name}": value for name, value in row.items()} for row in self.training_sets]
        return {
            "@type": "cr:RecordSet",
            "@id": "training_sets",
            "description": "What the training set of each generation up to this one consists of.",
            "field": [_field(f"training_sets/{name}", *about) for name, about in self.sets.items()],
            "data": rows,
        }

    # --------------------------------------------------------------------------------------------- README
    def readme(self) -> str:
        """The data set card of the Hugging Face Hub."""
        size = next((name for limit, name in SIZES if self.count < limit), "n>1M")
        rows = [
            f"| {row['generation']} | {row['images']} | {row['synthetic_share']:.1%} | {row['unknown']} | "
            f"{row['mean_depth']:.2f} |"
            for row in self.training_sets
        ]
        lines = [
            "---",
            "license: unknown",
            f"pretty_name: {json.dumps(self.title, ensure_ascii=False)}",
            "tags:",
            *(f"- {tag}" for tag in ("synthetic", "difflab", "croissant")),
            "size_categories:",
            f"- {size}",
            "---",
            "",
            f"# {self.title}",
            "",
            self.sentence,
            "",
            "**Share of synthetic images in this set: 100%.**",
            "",
            "| training set of generation | images | count as synthetic | unknown origin | mean depth |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "The depth of an image is the number of models between it and real images.",
            "",
            "## Where it comes from",
            "",
            f"- run `{self.run.config.name}`, generation {self.generation}, recipe `{self.run.recipe}`",
            f"- samples `{self.set_hash}`, weights `{self.model_hash}`, training set `{self.parents_hash}`",
            *(f"- {source['name']}; licence: {source['license']}" for source in self.sources),
            "",
            "The licence of the samples is not known to difflab: set `license` in the head of this file.",
            "`croissant.json` holds this card for machines, with the origin of each image.",
            "",
        ]
        return "\n".join(lines)


def write_card(run: Run, generation: int, folder: Path) -> None:
    """Write croissant.json, records.parquet and README.md beside the files of `runs.export`.

    Args:
        folder: it has the images and metadata.jsonl, whose lines have the keys `FIELDS`.
    """
    schema = pa.schema([(name, kind) for name, (kind, _, _) in FIELDS.items()])
    first: dict[str, Any] = {}
    count = 0
    with pq.ParquetWriter(folder / RECORDS, schema) as writer:
        for rows in _batches(folder / METADATA):
            first = first or rows[0]
            count += len(rows)
            columns = {name: [row[name] for row in rows] for name in FIELDS}
            writer.write_table(pa.table(columns, schema))
    hashes = {name: first.get(name) or "unknown" for name in ("set_hash", "model_hash", "parents_hash")}
    DataCard(run, generation, count, **hashes).write(folder)


def _batches(metadata: Path) -> Iterator[list[dict[str, Any]]]:
    """The lines of metadata.jsonl, `ROWS` at a time."""
    with open(metadata, encoding="utf-8", newline="\n") as lines:
        while batch := [json.loads(line) for line in islice(lines, ROWS)]:
            yield batch


def _field(name: str, kind: str, meaning: str) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": name,
        "name": name.partition("/")[2],
        "dataType": f"sc:{kind}",
        "description": meaning,
    }


def _context() -> dict[str, Any]:
    """The context of Croissant 1.1, with PROV-O."""
    return {
        "@language": "en",
        "@vocab": "https://schema.org/",
        "sc": "https://schema.org/",
        "cr": "http://mlcommons.org/croissant/",
        "rai": "http://mlcommons.org/croissant/RAI/",
        "dct": "http://purl.org/dc/terms/",
        "prov": "http://www.w3.org/ns/prov#",
        "conformsTo": "dct:conformsTo",
        "data": {"@id": "cr:data", "@type": "@json"},
        "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
        "examples": {"@id": "cr:examples", "@type": "@json"},
        "name": {"@container": "@language"},
        "description": {"@container": "@language"},
        **{term: f"cr:{term}" for term in TERMS},
    }

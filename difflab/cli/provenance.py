"""Commands on what leaves a run, and on proofs of where it comes from: export, sign, verify, new-key."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from difflab.cli.args import Commands, run_argument
from difflab.cli.output import note, print_rows, quiet_libraries
from difflab.core.errors import ConfigError, DataError

SHOWN = 20
"""Images without a valid signature that are listed at most."""


def add(commands: Commands) -> None:
    """Add the commands of this file."""
    _add_export(commands)
    _add_sign(commands)
    _add_verify(commands)
    _add_new_key(commands)


# --------------------------------------------------------------------------------------------------- export
def _add_export(commands: Commands) -> None:
    command = commands.add(
        "export",
        export,
        "Write the samples of a generation as an imagefolder with metadata.jsonl, or its LoRA for others.",
        [
            "difflab export runs/digits --generation 5 --to digits-gen5",
            "difflab export runs/emoji --generation 5 --to emoji-gen5 --c2pa my-key --croissant",
            "difflab export runs/mine --generation 5 --lora kohya --to mine-gen5.safetensors",
        ],
    )
    run_argument(command, "a run")
    command.set_defaults(weights=True)
    command.add_argument("--generation", type=int, required=True)
    command.add_argument(
        "--to", type=Path, required=True, metavar="PATH", help="a new folder, or with --lora a file"
    )
    command.add_argument(
        "--lora",
        choices=["kohya"],
        help="write the LoRA layers of the generation in this key layout, which ComfyUI and A1111 read",
    )
    command.add_argument(
        "--c2pa",
        type=Path,
        metavar="KEY",
        help="sign a C2PA manifest into every image, and into a contact sheet of the set beside the folder, "
        "with the key of this folder (key.pem, certificates.pem); a folder that does not exist gets a new "
        "development key",
    )
    command.add_argument(
        "--croissant",
        action="store_true",
        help="also write a data card: croissant.json (Croissant 1.1) with records.parquet, and README.md, "
        "the data set card of the Hugging Face Hub",
    )
    command.add_argument(
        "--c2pa-prompts",
        action="store_true",
        help="with --c2pa: the manifest holds the prompt itself, not only its hash",
    )


def export(args: argparse.Namespace) -> int:
    """Write the samples of one generation to a folder, or its LoRA to a file."""
    from difflab.runs.export import export as write
    from difflab.runs.run import open_run

    if args.c2pa_prompts and not args.c2pa:
        raise ConfigError("--c2pa-prompts needs --c2pa KEY, which signs the images")
    if args.lora:
        for option, does in (("c2pa", "signs images"), ("croissant", "describes images")):
            if getattr(args, option):
                raise ConfigError(f"--{option} {does}, and --lora writes none; leave one of them out")
        return _export_lora(args)
    signer = _signer(args.c2pa) if args.c2pa else None
    sign = signer and signer.sign
    from difflab.runs.contact_sheet import sheet_of

    count = write(open_run(args.dir), args.generation, args.to, sign, args.c2pa_prompts, args.croissant)
    if args.json:
        print_rows([{"generation": args.generation, "images": count, "folder": str(args.to)}])
    else:
        signed = f", signed by {signer.key.signer}" if signer else ""
        card = ", croissant.json and README.md" if args.croissant else ""
        print(f"{count} images{signed} and metadata.jsonl{card} in {args.to}")
        if signer:
            print(f"the contact sheet {sheet_of(args.to)} is signed for the set as a whole")
    return 0


def _signer(folder: Path) -> Any:
    """The key of a folder; a new development key if the folder does not exist."""
    from difflab.data.manifest import Signer
    from difflab.data.signing_key import new_key, open_key

    if folder.exists():
        return Signer(open_key(folder))
    key = new_key(folder)
    new = f"{folder}: a new development key, which nobody trusts yet; give its root.pem to those who check"
    note([f"{new} signatures"])
    return Signer(key)


def _export_lora(args: argparse.Namespace) -> int:
    quiet_libraries()
    from difflab.models.kohya import export_lora
    from difflab.runs.run import open_run

    count = export_lora(open_run(args.dir), args.generation, args.to)
    if args.json:
        print_rows([{"generation": args.generation, "layers": count, "file": str(args.to)}])
    else:
        print(f"{count} LoRA layers in {args.to}")
    return 0


# ----------------------------------------------------------------------------------------------------- sign
def _add_sign(commands: Commands) -> None:
    command = commands.add(
        "sign",
        sign,
        "Sign a folder, such as an exported set or the weights of a generation, with OpenSSF model signing. "
        "The signature is a file beside the folder; difflab verify checks it.",
        [
            "difflab sign digits-gen5 --key my-key",
            "difflab sign runs/mine/gen-005/model --key my-key",
        ],
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="what to sign")
    command.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="KEY",
        help="a folder with key.pem and certificates.pem, such as difflab new-key makes",
    )


def sign(args: argparse.Namespace) -> int:
    """Sign a folder and say where the signature is."""
    from difflab.data.folder_signature import sign_folder
    from difflab.data.signing_key import open_key

    file = sign_folder(args.folder, args.key)
    signer = open_key(args.key).signer
    if args.json:
        print_rows([{"folder": str(args.folder), "signature": str(file), "signer": signer}])
    else:
        print(f"{args.folder} is signed by {signer}; the signature is {file}")
    return 0


# --------------------------------------------------------------------------------------------------- verify
def _add_verify(commands: Commands) -> None:
    command = commands.add(
        "verify",
        verify,
        "Find damaged or missing parts of a run and name them, or check the C2PA manifests of images and the "
        "signature of a folder. The exit code is 1 if there is a fault, or a signature that does not hold.",
        ["difflab verify runs/digits", "difflab verify digits-gen5 --anchors my-key/root.pem"],
    )
    run_argument(command, "a run, an ecosystem of them, an image, a folder of images, or a signed folder")
    command.set_defaults(weights=True)
    command.add_argument(
        "--anchors",
        type=Path,
        metavar="PEM",
        help="signatures only: certificates of authorities that you trust (default: none)",
    )


def verify(args: argparse.Namespace) -> int:
    """Print one line per fault of a run, how many images have which manifest, and what a signature says."""
    from difflab.data.folder_signature import read_signature

    images = _images_in(args.dir)
    signature = read_signature(args.dir, args.anchors) if args.dir.is_dir() else None
    code = _show_signature(args, signature) if signature else 0
    if images:
        return max(code, _verify_images(args, images))
    if signature and not (args.dir / "run.yaml").exists():
        return code
    if args.anchors and not signature:
        raise ConfigError(f"--anchors is about signatures, and {args.dir} has none")
    return max(code, _verify_run(args))


def _verify_run(args: argparse.Namespace) -> int:
    from difflab.runs.run import open_run
    from difflab.runs.verify import verify as faults_of

    faults = list(chain.from_iterable(faults_of(part) for part in open_run(args.dir).parts))
    if args.json:
        print_rows({"fault": fault} for fault in faults)
    else:
        print("\n".join(faults) or f"{args.dir}: no fault found")
    return 1 if faults else 0


def _show_signature(args: argparse.Namespace, signature: Any) -> int:
    """Print what the signature of a folder says. Returns the exit code."""
    if args.json:
        print_rows([{"folder": str(args.dir), **vars(signature)}])
    else:
        by = f" by {signature.signer}" if signature.signer else ""
        meaning = {
            "trusted": f"signed{by}, for whom --anchors vouches; no file has changed since",
            "valid": f"signed{by}, for whom nobody vouches; no file has changed since",
            "invalid": f"the signature{by} does not hold: {signature.problem}",
        }[signature.state]
        print(f"{args.dir}: {signature.state}: {meaning}")
    return int(signature.state == "invalid")


def _images_in(path: Path) -> list[Path]:
    """The image files at `path`, if it is not a run."""
    from difflab.data.decode import suffixes

    if path.is_file():
        return [path]
    if (path / "run.yaml").exists() or not path.is_dir():
        return []
    known = suffixes()
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in known)


def _verify_images(args: argparse.Namespace, images: list[Path]) -> int:
    from difflab.data.manifest import Reader

    reader = Reader(args.anchors)
    states: Counter[str] = Counter()
    invalid: list[str] = []

    def rows() -> Iterator[dict[str, Any]]:
        for file in images:
            manifest = reader.read(file)
            states[manifest.state] += 1
            if manifest.state == "invalid":
                invalid.append(f"{file}: {', '.join(manifest.problems) or 'invalid'}")
            origin = manifest.declared
            yield {
                "file": str(file),
                "state": manifest.state,
                "signer": manifest.signer or None,
                "origin": origin.origin if origin else "unknown",
                "depth": origin.depth if origin else None,
                "problems": list(manifest.problems),
            }

    sheet = _sheet_row(args.dir, images, reader)
    of_sheet = [] if sheet is None else [sheet]
    wrong = sheet is not None and (sheet["state"] == "invalid" or sheet["complete"] is False)
    if args.json:
        print_rows(chain(rows(), of_sheet))
        return 1 if invalid or wrong else 0
    signers = {row["signer"] for row in rows() if row["signer"] and row["state"] in ("trusted", "valid")}
    meanings = {
        "trusted": "signed by somebody whom --anchors vouches for",
        "valid": "signed, and nobody vouches for the signer" + ("" if args.anchors else " (see --anchors)"),
        "invalid": "changed after signing, or signed with a certificate that may not sign",
        "none": "without a manifest, which says nothing about where they come from",
    }
    print(f"{len(images)} images in {args.dir}")
    for state, meaning in meanings.items():
        if states[state]:
            print(f"  {states[state]:>7} {state}: {meaning}")
    for signer in sorted(signers):
        print(f"  signer: {signer}")
    for line in invalid[:SHOWN]:
        print(f"  {line}")
    if sheet is not None:
        _show_sheet(sheet)
    if len(invalid) > SHOWN:
        print(f"  and {len(invalid) - SHOWN} more; --json lists all")
    return 1 if invalid or wrong else 0


def _sheet_row(folder: Path, images: list[Path], reader: Any) -> dict[str, Any] | None:
    """What the contact sheet beside a folder says of its images; None if there is none.

    `complete`: whether the images are those of the set that was signed; None if the sheet does not say.
    """
    from difflab.runs.contact_sheet import hash_of_images, sheet_of

    file = sheet_of(folder.resolve())
    if folder.is_file() or not file.is_file():
        return None
    manifest = reader.read(file)
    stated, complete = manifest.generation.get("set"), None
    if manifest.state in ("trusted", "valid") and isinstance(stated, str):
        try:
            complete = hash_of_images(images) == stated
        except DataError:  # a damaged image, which is listed by itself
            complete = False
    return {
        "contact_sheet": str(file),
        "state": manifest.state,
        "signer": manifest.signer or None,
        "complete": complete,
        "inputs": list(manifest.inputs) if manifest.state in ("trusted", "valid") else [],
        "problems": list(manifest.problems),
    }


def _show_sheet(sheet: dict[str, Any]) -> None:
    told = {
        True: "these are the images of the set that was signed",
        False: "images are missing, changed or added since the set was signed",
        None: ", ".join(sheet["problems"]) or "it says nothing about these images",
    }[sheet["complete"]]
    print(f"  contact sheet {Path(sheet['contact_sheet']).name}: {sheet['state']}: {told}")
    for entry in sheet["inputs"]:
        about = f": {entry['description']}" if entry["description"] else ""
        print(f"    trained on {entry['title']} ({entry['hash'][:12]}){about}")


# -------------------------------------------------------------------------------------------------- new-key
def _add_new_key(commands: Commands) -> None:
    command = commands.add(
        "new-key",
        new_key,
        "Make a key and certificates for development, for difflab export --c2pa and difflab sign.",
        ["difflab new-key my-key"],
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder")


def new_key(args: argparse.Namespace) -> int:
    """Make a development key and say what its files are for."""
    from difflab.data.signing_key import new_key as make

    key = make(args.folder)
    if args.json:
        print_rows([{"folder": str(args.folder), "signer": key.signer, "algorithm": key.algorithm}])
        return 0
    print(f"{args.folder}: a key of {key.signer} ({key.algorithm}), for development: no trust list has it")
    print("  key.pem           the private key; keep it to yourself")
    print("  certificates.pem  its certificate and the one of its own authority")
    print("  root.pem          for those who check your signatures: difflab verify IMAGES --anchors root.pem")
    return 0

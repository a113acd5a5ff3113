"""The traces that image generators leave in the metadata of their images: one table of rules.

A trace says that the generator wrote the file, not what it did: a photograph that was enlarged with ComfyUI
has the same chunks as one that was drawn. Pipelines of `diffusers` write no metadata at all.

Where the formats are described or written:

- A1111, Forge: `modules/images.py`, `save_image_with_geninfo` (PNG text `parameters`; EXIF UserComment in
  JPEG and WebP), and `modules/infotext_utils.py`, `re_param` (the line "Steps: 20, Sampler: ...").
- ComfyUI: `nodes.py`, `SaveImage` (PNG text `prompt`, `workflow`); `comfy_extras/nodes_images.py`,
  `SaveAnimatedWEBP` (EXIF Model `prompt:{...}`, Make `workflow:{...}`).
- InvokeAI: `image_files_disk.py` (`invokeai_metadata`, `invokeai_graph`, `invokeai_workflow`); before 3.0
  `sd-metadata`; before 2.0 `Dream`, a command line such as `"a cat" -s 50 -S 7 -W 512`.
- NovelAI: documentation "Image metadata": `Software` = NovelAI, `Comment` = JSON of the settings.
- Fooocus: `modules/meta_parser.py`, `modules/private_logger.py` (PNG `parameters`, `fooocus_scheme`; EXIF
  UserComment, MakerNote).
- SwarmUI: `docs/Image Metadata Format.md` (`parameters` with `sui_image_params`).
- Draw Things: XMP CreatorTool, and JSON in exif:UserComment, as `stable-diffusion-prompt-reader` reads it.
- Midjourney: PNG `Description` that ends with `Job ID: UUID`, as ExifTool shows it.
- Software, CreatorTool, Credit: what the program called itself (EXIF 2.32; XMP specification part 2).
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from difflab.data.embedded import Embedded

SETTINGS = r"Steps: \d+, Sampler: |Steps: \d+, \w[\w ]*: "
NAMES = (
    r"\b(stable[ -]diffusion|midjourney|dall[-· .]?e\b|novelai|comfyui|invokeai|fooocus|draw things"
    r"|diffusionbee|easy diffusion|automatic1111|sd\.next|swarmui|adobe firefly|ideogram|leonardo\.?ai\b"
    r"|recraft|made with google ai|bing image creator|chatgpt|gpt-image|black forest labs|flux\.[12]\b"
    r"|nightcafe|playground ai|dream by wombo|kandinsky|difflab)"
)


# After the name of a property: an attribute, an attribute rdf:resource, or an element, whose text may be
# inside rdf:Alt and rdf:li.
VALUE = re.compile(
    r"""\s*(?:=\s*["']([^"'<]*)|[^>]{0,200}?resource\s*=\s*["']([^"'<]*)"""
    r"""|>\s*(?:<[^/>][^>]{0,200}>\s*){0,3}([^<]*))"""
)
LONGEST, MOST = 2**16, 50
"""Characters of a property that are read, and occurrences of its name that are looked at."""


@dataclass(frozen=True)
class Trace:
    """One rule: the text under `key` in `place` matches `pattern`, so `generator` wrote the file.

    place: text (a text chunk of PNG), exif (a tag), or xmp (a property).
    """

    generator: str
    place: str
    key: str
    pattern: str


def _json(key: str) -> str:
    """The pattern of a JSON object with this key. It is not parsed."""
    return rf'\A\s*\{{[\s\S]*?"({key})"\s*:'


TRACES = (
    Trace("Fooocus", "text", "fooocus_scheme", r"\A\s*(fooocus|a1111)\s*\Z"),
    Trace("Fooocus", "exif", "MakerNote", r"\A\s*(fooocus|a1111)\s*\Z"),
    Trace("Fooocus", "text", "parameters", _json("base_model|metadata_scheme|full_prompt")),
    Trace("Fooocus", "exif", "UserComment", _json("base_model|metadata_scheme|full_prompt")),
    Trace("SwarmUI", "text", "parameters", _json("sui_image_params")),
    Trace("SwarmUI", "exif", "UserComment", _json("sui_image_params")),
    Trace("A1111 or Forge", "text", "parameters", SETTINGS),
    Trace("A1111 or Forge", "exif", "UserComment", SETTINGS),
    Trace("ComfyUI", "text", "prompt", _json("class_type")),
    Trace("ComfyUI", "text", "workflow", _json("nodes")),
    Trace("ComfyUI", "exif", "Model", r"\Aprompt:\s*\{"),
    Trace("ComfyUI", "exif", "Make", r"\A(workflow|prompt):\s*\{"),
    Trace("InvokeAI", "text", "invokeai_metadata", r"\A\s*\{"),
    Trace("InvokeAI", "text", "invokeai_graph", r"\A\s*\{"),
    Trace("InvokeAI", "text", "sd-metadata", r"\A\s*\{"),
    Trace("InvokeAI", "text", "Dream", r"\s-[SsCAWH] ?\w"),
    Trace("NovelAI", "text", "Software", r"\A\s*NovelAI\s*\Z"),
    Trace("NovelAI", "text", "Comment", _json("uc|n_samples|noise_schedule")),
    Trace("Midjourney", "text", "Description", r"Job ID: [0-9a-f]{8}-[0-9a-f]{4}-"),
    Trace("Draw Things", "xmp", "CreatorTool", r"\A\s*Draw Things"),
    Trace("Draw Things", "xmp", "UserComment", _json("sampler")),
    Trace("a program that names itself", "text", "Software", NAMES),
    Trace("a program that names itself", "exif", "Software", NAMES),
    Trace("a program that names itself", "xmp", "CreatorTool", NAMES),
    Trace("a program that names itself", "xmp", "Credit", NAMES),
)

_PATTERNS = {trace: re.compile(trace.pattern, re.IGNORECASE) for trace in TRACES}


def trace_of(embedded: Embedded) -> tuple[Trace, str] | None:
    """The first rule of `TRACES` that the metadata of a file meets, with the text that meets it."""
    for trace in TRACES:
        for text in _values(trace, embedded):
            match = _PATTERNS[trace].search(text)
            if match:
                start = max(0, match.start() - 20)
                return trace, text[start : start + 400]
    return None


def _values(trace: Trace, embedded: Embedded) -> list[str]:
    if trace.place == "xmp":
        return properties(embedded.xmp, trace.key) if embedded.xmp else []
    texts = embedded.texts if trace.place == "text" else embedded.exif
    return [texts[trace.key]] if trace.key in texts else []


def properties(xmp: str, name: str) -> list[str]:
    """The values of an XMP property under any prefix: attributes, elements and rdf:resource.

    The packet is searched, not parsed, so entities of XML are never expanded beyond single characters.

    >>> properties('<a:CreatorTool>Draw Things</a:CreatorTool><b c:CreatorTool="x &amp;"/>', "CreatorTool")
    ['Draw Things', 'x &']
    """
    values, start = [], -1
    for _ in range(MOST):
        start = xmp.find(name, start + 1)
        if start < 0:
            break
        end = start + len(name)
        match = VALUE.match(xmp[end : end + LONGEST])
        value = next((group for group in match.groups() if group), "").strip() if match else ""
        if value and xmp[start - 1 : start] in (":", "<", " ", "\n", "\t"):
            values.append(html.unescape(value))
    return values

"""Every rule of the table fires on a file of its format, and ordinary files have no trace."""

from __future__ import annotations

import json
import time

import pytest

from difflab.data.embedded import read_embedded
from difflab.data.generators import TRACES, properties, trace_of
from tests.helpers.declaring import SETTINGS, exif, picture, png, xmp

GRAPH = json.dumps({"3": {"inputs": {"seed": 1}, "class_type": "KSampler"}})
WORKFLOW = json.dumps({"last_node_id": 9, "nodes": [{"id": 1}]})
FOOOCUS = json.dumps({"base_model": "x", "prompt": "a cat", "metadata_scheme": "fooocus"})
DRAW_THINGS = (
    '<exif:UserComment><rdf:Alt><rdf:li xml:lang="x-default">{&quot;c&quot;:&quot;a cat&quot;,'
    "&quot;sampler&quot;:&quot;Euler&quot;}</rdf:li></rdf:Alt></exif:UserComment>"
)
FILES = {
    "A1111, PNG": (png({"parameters": SETTINGS}), "A1111 or Forge", "parameters"),
    "A1111, JPEG": (
        picture("JPEG", exif=exif(comment=b"UNICODE\0" + SETTINGS.encode("utf-16-be"))),
        "A1111 or Forge",
        "UserComment",
    ),
    "Forge, WebP": (
        picture("WEBP", exif=exif(comment=b"UNICODE\0" + SETTINGS.encode("utf-16-le"))),
        "A1111 or Forge",
        "UserComment",
    ),
    "ComfyUI, prompt": (png({"prompt": GRAPH}), "ComfyUI", "prompt"),
    "ComfyUI, workflow": (png({"workflow": WORKFLOW}), "ComfyUI", "workflow"),
    "ComfyUI, both": (png({"prompt": GRAPH, "workflow": WORKFLOW}), "ComfyUI", "prompt"),
    "ComfyUI, WebP": (picture("WEBP", exif=exif({272: f"prompt:{GRAPH}"})), "ComfyUI", "Model"),
    "ComfyUI, WebP workflow": (picture("WEBP", exif=exif({271: f"workflow:{WORKFLOW}"})), "ComfyUI", "Make"),
    "InvokeAI": (png({"invokeai_metadata": '{"seed": 1}'}), "InvokeAI", "invokeai_metadata"),
    "InvokeAI, graph": (png({"invokeai_graph": '{"id": 1}'}), "InvokeAI", "invokeai_graph"),
    "InvokeAI 2": (png({"sd-metadata": '{"model": "x"}'}), "InvokeAI", "sd-metadata"),
    "InvokeAI 1": (png({"Dream": '"a cat" -s 50 -S 7 -W 512'}), "InvokeAI", "Dream"),
    "NovelAI": (png({"Software": "NovelAI", "Comment": '{"uc": ""}'}), "NovelAI", "Software"),
    "NovelAI, Comment alone": (png({"Comment": '{"steps": 28, "uc": "x"}'}), "NovelAI", "Comment"),
    "Fooocus": (png({"fooocus_scheme": "fooocus", "parameters": FOOOCUS}), "Fooocus", "fooocus_scheme"),
    "Fooocus, parameters": (png({"parameters": FOOOCUS}), "Fooocus", "parameters"),
    "Fooocus, JPEG": (
        picture("JPEG", exif=exif({0x9286: FOOOCUS, 0x927C: "fooocus"})),
        "Fooocus",
        "MakerNote",
    ),
    "Fooocus, comment": (picture("JPEG", exif=exif({0x9286: FOOOCUS})), "Fooocus", "UserComment"),
    "SwarmUI": (png({"parameters": '{"sui_image_params": {"seed": 1}}'}), "SwarmUI", "parameters"),
    "SwarmUI, JPEG": (
        picture("JPEG", exif=exif(comment=b'ASCII\0\0\0{"sui_image_params": {}}')),
        "SwarmUI",
        "UserComment",
    ),
    "Midjourney": (
        png({"Description": "a cat --v 6 Job ID: 01234567-89ab-cdef-0123-456789abcdef"}),
        "Midjourney",
        "Description",
    ),
    "Draw Things": (
        png(itxt={"XML:com.adobe.xmp": xmp("", DRAW_THINGS).decode()}),
        "Draw Things",
        "UserComment",
    ),
    "Draw Things, tool": (
        picture("JPEG", xmp=xmp('xmp:CreatorTool="Draw Things"')),
        "Draw Things",
        "CreatorTool",
    ),
    "PNG Software": (png({"Software": "Midjourney"}), "a program that names itself", "Software"),
    "EXIF Software": (
        picture("JPEG", exif=exif({305: "Adobe Firefly 3"})),
        "a program that names itself",
        "Software",
    ),
    "XMP tool": (
        picture("WEBP", xmp=xmp("", "<xmp:CreatorTool>Stable Diffusion</xmp:CreatorTool>")),
        "a program that names itself",
        "CreatorTool",
    ),
    "XMP credit": (
        picture("JPEG", xmp=xmp('photoshop:Credit="Made with Google AI"')),
        "a program that names itself",
        "Credit",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_each_format(name: str) -> None:
    data, generator, key = FILES[name]
    found = trace_of(read_embedded(data))
    assert found is not None
    assert (found[0].generator, found[0].key) == (generator, key)


def test_every_rule_has_a_file() -> None:
    seen = {found[0] for data, _, _ in FILES.values() if (found := trace_of(read_embedded(data)))}
    assert seen == set(TRACES)


@pytest.mark.parametrize(
    "data",
    [
        png(),
        png({"prompt": "what you see", "workflow": "scan, crop", "parameters": "exposure 1/60"}),
        png({"Software": "GIMP 3.0", "Comment": '{"camera": "x"}', "Description": "a flux of diffusion"}),
        png({"Dream": "of electric sheep", "sd-metadata": "card 3", "parameters": "Steps: many"}),
        picture(
            "JPEG", exif=exif({271: "Canon", 272: "EOS 5D", 305: "Adobe Photoshop 27"}, b"ASCII\0\0\0hello")
        ),
        picture("JPEG", xmp=xmp('xmp:CreatorTool="Adobe Lightroom" photoshop:Credit="Stable Photos"')),
        png({"Software": "firefly catcher", "title": "Midjourney"}),
    ],
    ids=["nothing", "other meanings", "GIMP", "no JSON", "camera", "Lightroom", "names elsewhere"],
)
def test_ordinary_files_have_no_trace(data: bytes) -> None:
    assert trace_of(read_embedded(data)) is None


def test_properties_are_searched_not_parsed() -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><xmp:CreatorTool>&b;</xmp:CreatorTool>'
    assert properties(bomb, "CreatorTool") == ["&b;"]
    assert properties('<a x:CreatorTool="one"/><x:CreatorTool rdf:resource="two"/>', "CreatorTool") == [
        "one",
        "two",
    ]
    assert properties('<a x:MyCreatorTool="one"/>', "CreatorTool") == []
    assert properties("", "CreatorTool") == []


@pytest.mark.parametrize(
    "text",
    [
        "exif:UserComment>{" * 60_000,
        "DigitalSourceType " * 60_000,
        ":CreatorTool" + "\n" * 10**6,
        "<x:CreatorTool>" + "<a>" * 300_000,
    ],
)
def test_hostile_packets_take_a_bounded_time(text: str) -> None:
    found = read_embedded(picture("WEBP", xmp=text.encode()))
    started = time.process_time()
    trace_of(found)
    assert time.process_time() - started < 2

"""The page of an audit: the three answers, intervals, examples; text of strangers is text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audited import write
from browser import browsing
from commands import difflab
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from difflab.metrics.interval import wilson

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> \u202e"
RANDOM = np.random.default_rng(0)


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.text += " " if tag in ("td", "th", "p") else ""

    def handle_data(self, data: str) -> None:
        self.text += data


def pictures(seed: int, n: int, noise: float) -> np.ndarray:
    """Smooth pictures with noise, uint8 [n, 16, 16, 3]."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (n, 3, 3, 3), dtype=np.uint8)
    large = np.stack([np.asarray(Image.fromarray(image).resize((16, 16))) for image in small])
    return np.clip(large + random.normal(0, noise, large.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 real images, 12 noisy ones, of which 10 declare a generator with hostile text; one file is damaged."""
    root = tmp_path_factory.mktemp("page")
    write(root / "set", pictures(0, 30, 0))
    write(root / "set", pictures(1, 2, 30), "<b>bold")
    info = PngInfo()
    info.add_text("parameters", f"{HOSTILE}\nSteps: 20, Sampler: Euler, CFG scale: 7, Seed: 1")
    for i, image in enumerate(pictures(2, 10, 30)):
        Image.fromarray(image).save(root / "set" / f"made{i}.png", pnginfo=info)
    (root / "set" / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write(root / "real", pictures(3, 60, 0))
    write(root / "synthetic", pictures(4, 60, 30))
    return root


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    done = difflab(
        *("audit", folder / "set", "--html", folder / "page.html", "--extractors", "texture"),
        *("--calibrate", folder / "real", folder / "synthetic"),
    )
    assert done.returncode == 0, done.stderr
    assert f"open in a browser: {folder / 'page.html'}" in done.stdout.replace("\n", "")
    return folder / "page.html"


def words(page: Path) -> str:
    return " ".join(Tags(re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.S)).text.split())


def test_the_three_answers_and_what_they_rest_on(page: Path) -> None:
    text = words(page)
    assert "At least 23.8% declare in their metadata" in text  # 10 of 42
    estimate = re.search(r"Estimate ([\d.]+)% 95% interval ([\d.]+)% to ([\d.]+)%", text)
    assert estimate is not None
    value, low, high = map(float, estimate.groups())
    assert low < 100 * 12 / 42 < high and low < value < high
    assert "Not known" in text and "This does not mean that they are real." in text
    assert "43 images, 1 of which cannot be read" in text
    assert "synthetic ones and flags" in text and "if it detects" in text


def test_every_layer_has_its_interval(page: Path) -> None:
    low, high = wilson(10 / 42, 42)
    assert f"declared synthetic 10 42 23.8% [{100 * low:.1f}%, {100 * high:.1f}%]" in words(page)
    assert "watermark 0 0 -" in words(page)  # no image is large enough


def test_examples_of_each_layer_are_pictures(page: Path) -> None:
    images = [attrs for tag, attrs in Tags(page.read_text()).tags if tag == "img"]
    assert len(images) == 16  # 8 of the declared ones, 8 of the probe
    assert all((attrs["src"] or "").startswith("data:image/") for attrs in images)
    assert "declared synthetic 8 of 10" in words(page)


def test_text_of_strangers_is_text_and_nothing_is_loaded(page: Path) -> None:
    found = Tags(page.read_text())
    assert not {"script", "iframe", "object", "b"} & {tag for tag, _ in found.tags}
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]
    assert "onerror=alert(1)>" in found.text and "<b>bold" in found.text
    assert "\u202e" not in page.read_text()
    policy = [
        attrs["content"] for tag, attrs in found.tags if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert "http" not in re.sub(r"<style>.*?</style>", "", page.read_text(), flags=re.S).replace(
        "http-equiv", ""
    )


def test_without_evidence_the_page_cannot_tell(tmp_path: Path) -> None:
    write(tmp_path / "set", pictures(0, 4, 0))
    done = difflab("audit", tmp_path / "set", "--html", tmp_path / "a.html", "--json")
    assert done.returncode == 0, done.stderr
    text = words(tmp_path / "a.html")
    assert "Estimate Cannot tell nothing measures what the layers miss" in text
    assert "At least 0.0%" in text and "Examples" not in text


@pytest.mark.parametrize(
    ("place", "message"),
    [("set", "is a folder; name a file"), ("set/image00000.png/a.html", "File exists")],
)
def test_a_place_that_cannot_be_written(folder: Path, place: str, message: str) -> None:
    done = difflab("audit", folder / "set", "--html", folder / place)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) <= 2


@browsing
def test_the_page_in_a_browser(page: Path, chromium: Any) -> None:
    """No script of the images runs, and nothing is wider than a phone."""
    for width in (390, 1280):
        tab = chromium.new_page(viewport={"width": width, "height": 900})
        errors: list[str] = []
        tab.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        tab.goto(page.as_uri())
        assert tab.title() == "set: difflab audit" and errors == []
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.close()

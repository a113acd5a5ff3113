"""Configs as mappings and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def written(folder: Path, text: str) -> Path:
    path = folder / "wanted.yaml"
    path.write_text(text)
    return path


def merged(base: dict[str, Any], **sections: Any) -> dict[str, Any]:
    out = {**base}
    for name, content in sections.items():
        out[name] = {**out.get(name, {}), **content} if isinstance(content, dict) else content
    return out

"""Model families behind one interface (see difflab/models/family.py), one file each."""

from difflab.models.registry import FAMILIES, family_of

__all__ = ["FAMILIES", "family_of"]

"""Modules that all other packages use: errors, random seeds, atomic files, hashes, progress, memory."""

"""Trains the bundled models from scratch."""

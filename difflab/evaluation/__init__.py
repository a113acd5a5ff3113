"""Anybody's images: compare two sets, diagnose a series, watch a training, simulate damage."""

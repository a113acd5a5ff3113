"""Policies that change training or the trained weights."""

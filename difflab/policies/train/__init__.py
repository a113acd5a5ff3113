"""Policies that act in training, or on its weights."""

"""Policies that change sampling."""

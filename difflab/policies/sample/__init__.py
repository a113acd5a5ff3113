"""Policies that act while sampling."""

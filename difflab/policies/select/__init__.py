"""Policies that choose which samples may train."""

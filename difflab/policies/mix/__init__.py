"""Policies that change which images a training set contains."""

"""Policies that act on what a training set is made of."""

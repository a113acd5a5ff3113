"""Policies that select the samples that later generations may train on."""

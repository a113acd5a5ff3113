"""The text-to-image architectures of diffusers: one file for each, behind the contract in architecture.py."""

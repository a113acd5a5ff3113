"""A run on disk: its folder, the shards of images, the ledger, what was trained on, checks and export."""

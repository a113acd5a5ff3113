"""A run on disk: its folder, the shards of images, the ledger, the training sets, verification and export."""

"""One chain: five stages, one file each, and what they share."""

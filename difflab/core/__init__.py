"""What all other folders use: errors, randomness, files that are whole or absent, progress, memory."""

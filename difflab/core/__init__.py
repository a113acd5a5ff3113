"""What everything stands on: errors, randomness, files that are whole or absent, progress, memory."""

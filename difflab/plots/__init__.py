"""Arrays and rows to pictures. Nothing here knows of a run."""

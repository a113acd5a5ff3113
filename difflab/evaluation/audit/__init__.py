"""What an image set says about its origin, layer by layer: see `difflab.evaluation.audit.audit`."""

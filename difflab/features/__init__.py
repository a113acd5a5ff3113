"""Images to vectors: the feature extractors."""

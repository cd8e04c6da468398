"""Image features: one protocol for every extractor, standardisation on the reference set, a cache on disk."""

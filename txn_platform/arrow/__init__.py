"""How columns lie in memory: dictionaries, text, and batches that are prefetched."""

"""Finished runs: found by file, folder or pin, scored again, gated, and asked about the guide."""

"""A knowledge graph of entities and chunks in which every node and edge counts its support."""

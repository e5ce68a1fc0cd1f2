"""Chat models, embedders and rerankers behind small protocols."""

"""The corpus: files become documents, documents become chunks, questions become splits."""

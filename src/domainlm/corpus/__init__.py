"""Files to documents, chunks and split questions."""

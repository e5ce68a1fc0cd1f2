"""domainlm: RAG, fine-tuning or both? Build all of them on your documents, measure, decide."""

__version__ = "0.1.0"

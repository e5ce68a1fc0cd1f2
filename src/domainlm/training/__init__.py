"""Training rows and the adapters trained on them."""

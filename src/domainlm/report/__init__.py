"""The result as one HTML page and a Markdown summary."""

"""The server: a web app and an API over one domain, its arms and its feedback."""

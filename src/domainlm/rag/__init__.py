"""The pipeline: stages before, in and after retrieval, prompts and arms."""

"""The recipe of the Aldervale example: facts, wording, rendering and questions."""

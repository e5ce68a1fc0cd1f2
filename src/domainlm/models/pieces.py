"""An answer told piece by piece while it is written, so that nothing told has to be taken back."""

from __future__ import annotations

from domainlm.models.base import Listener


def stop_at(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the first stop string begins; None if there is none."""
    found = [at for word in stop if word and (at := text.find(word)) >= 0]
    return min(found, default=None)


class Piecewise:
    """Tells a listener the text of growing token sequences, never what may still change.

    Held back are blanks at the ends (they are stripped in the end), an unfinished character, and
    whatever could be the beginning of a stop string.
    """

    def __init__(self, tell: Listener, stop: tuple[str, ...]) -> None:
        self._tell, self._stop = tell, stop
        self._told = ""

    def grow(self, text: str) -> bool:
        """The text so far; whether to go on."""
        cut = stop_at(text, self._stop)
        text = text[:cut].strip().rstrip("\ufffd").rstrip()
        if cut is None:
            text = text[: len(text) - self._unsure(text)].rstrip()
        return self._say(text)

    def end(self, text: str) -> None:
        """The whole text."""
        self._say(text)

    def _say(self, text: str) -> bool:
        if not text.startswith(self._told):
            # A tokenizer that tidies up blanks may go back on a word.
            return self._tell("")
        piece, self._told = text[len(self._told) :], text
        return self._tell(piece)

    def _unsure(self, text: str) -> int:
        """Characters at the end that may begin a stop string."""
        return max(
            (n for word in self._stop for n in range(1, len(word)) if text.endswith(word[:n])),
            default=0,
        )

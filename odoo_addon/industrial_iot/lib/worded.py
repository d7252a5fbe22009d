"""Texts for people that get the words of their language later: nothing here knows of languages, Odoo's models do."""

from __future__ import annotations

from typing import Any


def _(text: str) -> str:
    """``text`` itself. The name is the mark by which Odoo's export of terms finds it."""
    return text


class Worded:
    """An English text with ``%(name)s`` in it, and what stands there; ``str()`` is the whole in English.

    ``iiot.wording`` says it in the reader's language. A value may be a text of this kind again.
    """

    def __init__(self, text: str, /, **values: Any) -> None:
        self.text = text
        self.values = values

    def __str__(self) -> str:
        return self.text % self.values if self.values else self.text


class WordedError(ValueError):
    """An error that people read: ``PathError(_("a path has at most %(most)s steps"), most=16)``."""

    def __init__(self, text: str, /, **values: Any) -> None:
        super().__init__(text)
        self.worded = Worded(text, **values)

    def __str__(self) -> str:
        return str(self.worded)


def worded(error: Exception) -> Worded | str:
    """What an error says: to be put into words where it can be, else as it is."""
    return error.worded if isinstance(error, WordedError) else str(error)

"""ConfigError and DataError: what the user can mend, told in one line."""

from __future__ import annotations


class ConfigError(ValueError):
    """Something the user can mend; its text is one line that names the field, the value and the nearest right one.

    A value from a file may hold lines, or megabytes: lines are joined, and a text longer than `LONGEST` is cut.
    """

    LONGEST = 2000

    def __init__(self, text: str) -> None:
        text = " ".join(text.splitlines())
        super().__init__(text if len(text) <= self.LONGEST else f"{text[: self.LONGEST]}... ({len(text)} characters)")


class DataError(ValueError):
    """What is wrong with data that the user can mend; its text is one line that names the file or the field.

    Commands show it as one line and exit with status 2. A data set from outside dcnlab may raise it too.
    """

    def __init__(self, text: str) -> None:
        # PyTorch's loader raises it again in the training process, with the loader's traceback as its text.
        if text.startswith("Caught ") and " in DataLoader worker process " in text.partition("\n")[0]:
            text = text.rpartition(f"{type(self).__module__}.{type(self).__qualname__}: ")[2].strip()
        super().__init__(" ".join(text.split("\n")))

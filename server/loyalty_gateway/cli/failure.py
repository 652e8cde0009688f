"""How a command ends when it cannot do what was asked; it must never show a stack trace."""

import json
import sys

USAGE_EXIT_CODE = 2
"""The command line, the configuration or an address was wrong: nothing was tried."""
REFUSED_EXIT_CODE = 1
"""The server was asked and refused, or did not answer."""


class CommandFailed(Exception):
    """A failure to tell in words; `text` is ready to print and free of secrets."""

    def __init__(self, text: str, *, exit_code: int = REFUSED_EXIT_CODE) -> None:
        super().__init__(text)
        self.text = text
        self.exit_code = exit_code

    def show(self, *, is_json: bool) -> None:
        """Prints it to standard error: for a person, or as one JSON document for a program."""
        text = json.dumps({"error": {"message": self.text}}) if is_json else f"loyalty: {self.text}"
        print(text, file=sys.stderr)


class UsageFailed(CommandFailed):
    """What was asked makes no sense, or the configuration does not allow it."""

    def __init__(self, text: str) -> None:
        super().__init__(text, exit_code=USAGE_EXIT_CODE)

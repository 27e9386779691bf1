"""The one exception of the package."""
from __future__ import annotations

from typing import Optional

__all__ = ["LociError"]


class LociError(Exception):
    """What went wrong, in one sentence that names the file and the field, or the sentence of the command.

    code: the exit code of the command (docs/command_line.md lists them); None where no command ran.
    """

    def __init__(self, message: str, code: Optional[int] = None):
        super().__init__(message)
        self.code = code

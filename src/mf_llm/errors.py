"""The errors users are meant to see: one class for what they can mend themselves."""

from __future__ import annotations

from pathlib import Path

from mf_llm.redaction import redacted

# What reading a file may raise that holds something else than it should; `ValueError` is JSON, Unicode and Arrow.
UNREADABLE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError)


class InputError(ValueError):
    """Something the user gave (an argument, a file, a configuration) is not usable.

    The message reads "`x` must be ..., got ...; what follows; what to do." The command line prints it as one line and
    exits with code 2. Keys and tokens are taken out of it: what another program said may repeat them.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(redacted(message))


class EventError(InputError):
    """An event is not valid; says where it stands.

    Args:
        problem: what is wrong and what to do.
        file: the file the event was read from, if any.
        line: the 1-based line (JSONL, CSV) or row (Parquet, data set) of the event.
        field: the path of the field inside the event, such as ``turns[3].labels.stance``.
    """

    def __init__(
        self,
        problem: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
    ) -> None:
        self.problem, self.file, self.line, self.field = problem, file, line, field
        place = [str(file)] if file is not None else []
        if line is not None:
            place.append(f"line {line}")
        if field:
            place.append(f"field `{field}`")
        super().__init__(", ".join(place) + (": " if place else "") + problem)

"""Looks for secrets in texts and in everything that folders hold, however they are spelled and packed."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet


def spellings(secret: str) -> set[str]:
    """How a secret may be written: as it is, in an address, in a header."""
    coded = base64.b64encode(f"ann:{secret}".encode()).decode()
    return {secret, quote(secret, safe=""), coded, base64.b64encode(secret.encode()).decode().rstrip("=")}


def leaks(secrets: Sequence[str], told: str) -> list[str]:
    """The secrets that stand in a text."""
    return [secret for secret in secrets if any(one in told for one in spellings(secret))]


def everything_in(folder: Path) -> Iterator[str]:
    """The name and the content of every file, whatever packs it."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
            told = content.decode("utf-8", "replace") + content.decode("utf-16-le", "replace")
            if path.suffix == ".parquet":
                table = pyarrow.parquet.read_table(path)
                told += json.dumps(table.to_pylist(), default=str, ensure_ascii=False) + str(table.schema.metadata)
            yield f"{path} {told}"


def check_nothing_leaked(secrets: Sequence[str], folder: Path, *told: str) -> int:
    """Looks through a folder and through texts; returns how many there were."""
    searched = [*told, *everything_in(folder)]
    for content in searched:
        assert leaks(secrets, content) == [], content[:2000]
    return len(searched)

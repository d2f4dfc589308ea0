"""Texts without secrets: what a server, a library or a command line says may repeat a key."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

REMOVED = "(removed)"
# What a secret is called: the last word of the name of a variable, an option, a parameter or a field.
_NAME = r"(?:[A-Za-z0-9]+[_\-])*(?:api)?(?:token|key|secret|password|passwd|credentials?|signature)"
_LEAST_CHARACTERS = 8  # of the value of a variable: fewer stand in ordinary words

_TOKEN = re.compile(r"\b(?:hf_|api_org_|ghp_|github_pat_|sk-)[A-Za-z0-9_\-]{16,}")
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]{1,2000}@")
_IN_QUERY = re.compile(rf"([?&;]{_NAME}=)[^&;#\s'\"<>)]+", re.IGNORECASE)
_IN_HEADER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/\-]{8,}=*", re.IGNORECASE)
_OPTION = re.compile(rf"(?<![\w\-])(--{_NAME}(?:=|\s+))(?!-)[^\s`,;]+", re.IGNORECASE)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)


def redacted(text: str) -> str:
    """`text` without credentials.

    Taken out are credentials in addresses, the values of parameters and options that are called like a secret, what
    looks like a token of a known service, and the values of this process's variables that are called like a secret.

    Examples:
        >>> redacted("no answer from https://ann:pass@host/v1?token=abc&page=2")
        'no answer from https://host/v1?token=(removed)&page=2'
        >>> redacted("train.py --hub_token abcdef --seed 3")
        'train.py --hub_token (removed) --seed 3'
    """
    for secret in _known_secrets():
        text = text.replace(secret, REMOVED)
    text = _TOKEN.sub(REMOVED, _IN_ADDRESS.sub("", text))
    text = _IN_QUERY.sub(rf"\1{REMOVED}", text)
    return _OPTION.sub(rf"\1{REMOVED}", _IN_HEADER.sub(rf"\1 {REMOVED}", text))


def without_secret_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping without the values of what is called like a secret, at any depth."""
    return {
        name: REMOVED
        if _SECRET_NAME.fullmatch(name)
        else without_secret_fields(value)
        if isinstance(value, Mapping)
        else value
        for name, value in fields.items()
    }


def redact_logs(*names: str) -> None:
    """From now on these loggers, of libraries that tell addresses, tell no secrets."""
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Redacting) for one in logger.filters):
            logger.addFilter(_Redacting())


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


def _known_secrets() -> list[str]:
    """The secrets of this process, the longest first."""
    found = {value for name, value in os.environ.items() if _SECRET_NAME.fullmatch(name)}
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import get_token

        with suppress(OSError, UnicodeDecodeError):  # a file that this process may not read tells it no secret
            found.add(get_token() or "")
    return sorted((one for one in found if len(one) >= _LEAST_CHARACTERS), key=len, reverse=True)

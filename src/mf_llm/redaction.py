"""Texts without secrets: what a server, a library or a command line says may repeat a key."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

REMOVED = "(removed)"
# What a secret is called: the end of the name of a variable, an option, a parameter or a field.
# "eos_token" and its like are settings.
_NAME = (
    r"(?!(?:eos|bos|pad|unk|mask|max)[_\-]token)(?:[A-Za-z0-9]+[_\-])*(?:key|pwd|sig|signature|cookie|authorization"
    r"|[A-Za-z0-9]*(?:token|secret|password|passwd|passphrase|apikey|accesskey|credentials?))"
)
_LEAST_CHARACTERS = 8  # of the value of a variable: fewer stand in ordinary words

_TOKEN = re.compile(
    r"\b(?:(?:hf_|api_org_|gh[opsu]_|github_pat_|glpat-|gsk_|nvapi-|xox[abp]-|AIza)[A-Za-z0-9_\-]{16,}"
    r"|sk-(?=[A-Za-z_\-]*\d)[A-Za-z0-9_\-]{16,}|AKIA[A-Z0-9]{16}\b|eyJ[\w\-]{8,}\.[\w\-]{8,}\.[\w\-]{8,})"
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/?#\s'\"]{1,2000}@")
_IN_QUERY = re.compile(rf"([?&;#]{_NAME}=)[^&;#\s'\"<>)]+", re.IGNORECASE)
# What follows has signs that a word has not: "basic training" is no header.
_IN_HEADER = re.compile(
    r"\b(?:(Bearer)\s+(?=[A-Za-z]*(?:[0-9=]|(?-i:[a-z][A-Z])|[._~+/\-]\w))[\w.~+/\-]{8,}=*"
    r"|(Basic)\s+(?=[A-Za-z]*(?:[0-9=+/]|(?-i:[a-z][A-Z])))[A-Za-z0-9+/]{8,}=*)",
    re.IGNORECASE,
)
_OPTION = re.compile(rf"(?<![\w\-])(--{_NAME}(?:=|\s+))(?!-)[^\s`]+", re.IGNORECASE)
# A field with its value, as JSON, YAML and Python write them: a word alone ("key: x", "eos_token: x") is no secret.
_FIELD = re.compile(
    r"(?<!--)\b((?:api|access|secret|private|auth)[_\-]?key|(?:hub|hf|access|auth|api|refresh|session)[_\-]?token"
    r"|\w*(?:password|passwd|secret)|authorization)([\"']?\s*[:=]\s*[\"']?(?:(?:Bearer|Basic|Token)\s+)?)"
    r"(?!\(removed|(?:Bearer|Basic|Token)\s)[^\s\"'`,;&})]{4,}",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(_NAME, re.IGNORECASE)
# Loggers that tell addresses, and headers of replies, which may repeat a key.
_CONNECTIONS = ("connection", "http11", "http2", "proxy", "socks")
_TELLING = (
    *("httpx", "httpx2", "huggingface_hub.utils._http"),
    *(f"{library}.{part}" for library in ("httpcore", "httpcore2") for part in _CONNECTIONS),
)
_in_use: set[str] = set()


def keep_secret(*secrets: str) -> None:
    """From now on `redacted` takes these out, too: keys that stand in no variable that is called like one."""
    _in_use.update(secrets)


def secrets_of_address(address: str) -> list[str]:
    """The password of an address, and the values of its parameters that are called like a secret."""
    parts = urlsplit(address)
    password = unquote(parts.netloc.rpartition("@")[0]).partition(":")[2]
    return [password, *(value for name, value in parse_qsl(parts.query) if _SECRET_NAME.fullmatch(name))]


def secrets_of_fields(fields: Mapping[str, Any]) -> list[str]:
    """The texts of a mapping that `without_secret_fields` takes out."""
    found: list[str] = []
    for name, value in fields.items():
        inner = value if isinstance(value, list | tuple) else [value]
        for one in inner:
            if isinstance(one, Mapping):
                found += secrets_of_fields(one)
            elif _SECRET_NAME.fullmatch(str(name)) and isinstance(one, str):
                found += [one, one.split()[-1]] if one.strip() else []  # "Bearer KEY", too
    return found


def redacted(text: str) -> str:
    """`text` without credentials.

    Taken out are credentials in addresses, the values of parameters, options and fields that are called like a
    secret, what looks like a token of a known service, and the values of this process's variables that are called
    like a secret; and what `keep_secret` was told.

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
    text = _OPTION.sub(rf"\1{REMOVED}", _IN_HEADER.sub(lambda m: f"{m[1] or m[2]} {REMOVED}", text))
    return _FIELD.sub(rf"\1\2{REMOVED}", text)


def without_secret_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping without the values of what is called like a secret, and without credentials in texts, at any depth.

    What is true or false stays: "add_bos_token" is a setting.
    """
    return {name: REMOVED if _holds_secret(name, value) else _without(value) for name, value in fields.items()}


def _holds_secret(name: Any, value: Any) -> bool:
    return _SECRET_NAME.fullmatch(str(name)) is not None and not isinstance(value, bool | None)


def _without(value: Any) -> Any:
    if isinstance(value, Mapping):
        return without_secret_fields(value)
    if isinstance(value, list | tuple):
        return [_without(one) for one in value]
    return redacted(value) if isinstance(value, str) else value


def redact_logs() -> None:
    """From now on the loggers of libraries that ask servers tell no secrets."""
    for name in _TELLING:
        logger = logging.getLogger(name)
        if not any(isinstance(one, _Redacting) for one in logger.filters):
            logger.addFilter(_Redacting())


class _Redacting(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redacted(record.getMessage()), ()
        return True


def _known_secrets() -> list[str]:
    """The secrets of this process, the longest first."""
    # PWD is the folder that a command runs in, which messages name.
    found = {value for name, value in os.environ.items() if _SECRET_NAME.fullmatch(name) and name != "PWD"}
    found |= _in_use
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import get_token

        with suppress(OSError, UnicodeDecodeError):  # a file that this process may not read tells it no secret
            found.add(get_token() or "")
    found |= {quote(value, safe="") for value in found}
    return sorted((one for one in found if len(one) >= _LEAST_CHARACTERS), key=len, reverse=True)

"""`EndpointAnnotator`: categories from a language model behind an OpenAI-compatible server."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mf_llm.annotation.annotator import Annotations, blank_failures, topics_of
from mf_llm.annotation.dimension_sets import Dimension
from mf_llm.annotation.endpoint_answers import ENDPOINT_PROMPT_VERSION, answer_schema, messages, read_answer
from mf_llm.atomic_files import write_json
from mf_llm.errors import InputError
from mf_llm.models.default_backbone import cache_folder
from mf_llm.simulation.keyed_draws import stream_key, uniform_number

logger = logging.getLogger(__name__)

CACHE_FOLDER = "annotations"
TIMEOUT, CONNECTION, INVALID_RESPONSE = "timeout", "connection_error", "invalid_response"

# Sent where no key is given: the client would otherwise send the machine's Hub token to whatever server is named.
_NO_KEY = "none"
_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_REFUSES_FORMAT = ("http_400", "http_422")
_REFUSED = {401: "the key is not accepted", 403: "the key has no access", 404: "there is no such path or model"}


def annotations_folder() -> Path:
    """Where answers are kept unless told otherwise: ``annotations`` in the cache of this package."""
    return cache_folder() / CACHE_FOLDER


class EndpointAnnotator:
    """Asks a server for a JSON object that names a category, at temperature 0; rows are one-hot.

    Each pair of text and topic is asked about once, whatever order answers come in. What is not a valid answer is a
    typed failure of its own rows. A server that refuses `response_format` is asked without, one that ignores it is
    taken at its word: every answer is checked here.

    Args:
        base_url: address of the server, such as ``http://localhost:8000/v1``.
        model: what the server calls its model.
        api_key: key of the server. Without one none is sent; the Hub token of the machine never is.
        concurrency: requests at a time.
        retries: further attempts after a server error, a refusal for load, a broken connection or a timeout.
        timeout: seconds to wait for a response.
        delay: seconds before the first further attempt; doubled for each one after, up to `max_delay`. A server's
            ``Retry-After`` counts instead, up to `max_delay`.
        max_tokens: bound of an answer, reasoning included.
        extra_body: further fields of each request, for what a server calls its own way
            (``{"structured_outputs": {"json": schema}}`` or ``{"chat_template_kwargs": {"enable_thinking": False}}``
            of vLLM).
        cache: folder of valid answers, by a hash of model, prompt version, text, topic and dimension, without the
            texts; None: nothing is read from or written to the disk.
        name: what tables call it.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        concurrency: int = 8,
        retries: int = 4,
        timeout: float = 60.0,
        delay: float = 1.0,
        max_delay: float = 30.0,
        max_tokens: int = 512,
        extra_body: Mapping[str, Any] | None = None,
        cache: str | os.PathLike | bool | None = True,
        name: str = "endpoint",
    ) -> None:
        address = urlsplit(base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InputError(
                "`base_url` must be the http(s) address of a server, such as http://localhost:8000/v1; nothing can be "
                "asked; correct the address."
            )
        for option, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0), ("delay", delay, 0)):
            if value < least:
                raise InputError(f"`{option}` must be at least {least}, got {value}; no request can be made.")
        self.base_url, self.model, self.name = base_url, model, name
        self.concurrency, self.retries, self.timeout = concurrency, retries, timeout
        self.delay, self.max_delay, self.max_tokens = delay, max_delay, max_tokens
        self.extra_body = dict(extra_body or {})
        self.cache = annotations_folder() if cache is True else Path(cache) if cache else None
        self._api_key = api_key or _NO_KEY
        self._takes_format = True

    def annotate(self, texts: Sequence[str], topic: str | Sequence[str], dimension: Dimension) -> Annotations:
        """One-hot rows; texts without a word fail without being sent.

        Raises:
            InputError: the server refuses the key, or does not know the path or the model.
        """
        failures = blank_failures(texts)
        rows: dict[tuple[str, str], list[int]] = {}
        for place, pair in enumerate(zip(topics_of(topic, len(texts)), texts, strict=True)):
            if failures[place] is None:
                rows.setdefault(pair, []).append(place)
        one_hot, p = np.eye(len(dimension.ids)), np.full((len(texts), len(dimension.ids)), np.nan)
        for pair, (category, failure) in zip(rows, self._answers(list(rows), dimension), strict=True):
            for place in rows[pair]:
                failures[place] = failure
                if category is not None:
                    p[place] = one_hot[category]
        return Annotations.of(dimension.ids, p, failures)

    def fingerprint(self) -> dict[str, Any]:
        """Kind, address without credentials, model and prompt version; the weights are the server's secret."""
        address = urlsplit(self.base_url)
        port = f":{address.port}" if address.port else ""
        return {
            "kind": "endpoint",
            "server": f"{address.scheme}://{address.hostname}{port}{address.path}",
            "model": self.model,
            "weights": None,
            "prompt_version": ENDPOINT_PROMPT_VERSION,
            "max_tokens": self.max_tokens,
            "extra_body": self.extra_body,
        }

    def _answers(self, pairs: list[tuple[str, str]], dimension: Dimension) -> list[tuple[int | None, str | None]]:
        """Category or failure of each pair of topic and text, in their order."""
        if self.cache is not None and not self.cache.is_dir():
            logger.info("Answers are kept in %s.", self.cache)
        pool = ThreadPoolExecutor(self.concurrency, thread_name_prefix="annotate")
        try:
            answers = [pool.submit(self._answer, *pair, dimension) for pair in pairs]
            return [answer.result() for answer in answers]
        finally:
            pool.shutdown(cancel_futures=True)  # after an error or an interruption nothing more is sent

    def _answer(self, topic: str, text: str, dimension: Dimension) -> tuple[int | None, str | None]:
        """The answer about one text, from the cache or from the server; a valid one is kept at once."""
        file = self._cache_file(topic, text, dimension)
        known = _cached(file, dimension)
        if known is not None:
            return known, None
        category, failure = self._ask(topic, text, dimension)
        if file is not None and category is not None:
            record = {"category": dimension.ids[category], "model": self.model}
            write_json(file, record | {"prompt_version": ENDPOINT_PROMPT_VERSION})
        return category, failure

    def _ask(self, topic: str, text: str, dimension: Dimension) -> tuple[int | None, str | None]:
        """The answer about one text; further attempts where the server, not its answer, was at fault."""
        failure = CONNECTION
        for attempt in range(self.retries + 1):
            if attempt:
                logger.info("Asking again (attempt %d) after %s.", attempt + 1, failure)
            content, failure, wait = self._request(topic, text, dimension, with_format=self._takes_format)
            if failure in _REFUSES_FORMAT and self._takes_format:
                content, failure, wait = self._request(topic, text, dimension, with_format=False)
                # Still refused, it was this text (too long), not the format.
                self._takes_format = failure is not None
            if failure is None:
                return read_answer(content, dimension)
            if wait is None:
                return None, failure
            if attempt < self.retries:
                spread = 0.5 + uniform_number(stream_key(topic, text, "retry"), attempt)
                time.sleep(min(max(wait, self.delay * 2**attempt * spread), self.max_delay))
        return None, failure

    def _request(
        self, topic: str, text: str, dimension: Dimension, *, with_format: bool
    ) -> tuple[str | None, str | None, float | None]:
        """Content of the answer, or the failure and the seconds the server wants to be left alone (None: for good)."""
        from huggingface_hub import InferenceClient
        from huggingface_hub.errors import HfHubHTTPError, HTTPError, InferenceTimeoutError, OfflineModeIsEnabled

        client = InferenceClient(base_url=self.base_url, api_key=self._api_key, timeout=self.timeout)
        try:
            output = client.chat_completion(
                messages(dimension, topic, text),
                model=self.model,
                temperature=0.0,
                max_tokens=self.max_tokens,
                response_format=_response_format(dimension) if with_format else None,
                extra_body=self.extra_body or None,
            )
            return output.choices[0].message.content, None, None
        except OfflineModeIsEnabled as error:
            raise InputError(
                "HF_HUB_OFFLINE must not be set to ask a server, but is; the client refuses all requests; unset it."
            ) from error
        except InferenceTimeoutError:
            return None, TIMEOUT, 0.0
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in _REFUSED:
                # Not `from error`: its text holds what the server sent, which may repeat a key.
                raise InputError(
                    f"`base_url`, `model` and `api_key` must be those of a server that answers, got status {status} "
                    f"for model {self.model!r}: {_REFUSED[status]}; nothing was annotated; correct them."
                ) from None
            return None, f"http_{status}", _retry_after(error.response.headers) if status in _RETRIED else None
        except (HTTPError, OSError):
            return None, CONNECTION, 0.0
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return None, INVALID_RESPONSE, 0.0  # a page of a proxy, or JSON of another protocol

    def _cache_file(self, topic: str, text: str, dimension: Dimension) -> Path | None:
        if self.cache is None:
            return None
        asked = [
            self.model,
            ENDPOINT_PROMPT_VERSION,
            text,
            topic,
            dimension.to_dict(),
            self.max_tokens,
            self.extra_body,
        ]
        content = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return self.cache / key[:2] / f"{key}.json"


def _response_format(dimension: Dimension) -> dict[str, Any]:
    """A JSON object of this schema, in the words of TGI (`value`) and llama.cpp (`schema`).

    The client rewrites OpenAI's "json_schema" to TGI's form for every address, so that it cannot be sent as it is.
    """
    schema = answer_schema(dimension)
    return {"type": "json_object", "value": schema, "schema": schema}


def _cached(file: Path | None, dimension: Dimension) -> int | None:
    """Place of the category in a file of the cache; None where there is none that can be used."""
    try:
        category = None if file is None else json.loads(file.read_text(encoding="utf-8"))["category"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dimension.ids.index(category) if category in dimension.ids else None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds a server asks to be left alone; 0 where it says nothing, or gives a date."""
    try:
        return max(float(headers.get("retry-after", 0)), 0.0)
    except ValueError:
        return 0.0

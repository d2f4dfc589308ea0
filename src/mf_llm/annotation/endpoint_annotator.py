"""`EndpointAnnotator`: categories from a language model behind an OpenAI-compatible server."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mf_llm.annotation.annotator import Annotations, blank_failures, topics_of
from mf_llm.annotation.dimension_sets import Dimension
from mf_llm.annotation.endpoint_answers import ENDPOINT_PROMPT_VERSION, answer_schema, messages, read_answer
from mf_llm.atomic_files import write_json
from mf_llm.endpoints.asking_session import AskingSession
from mf_llm.endpoints.chat import Answer, ChatReply, ChatRequest
from mf_llm.endpoints.endpoint import Endpoint
from mf_llm.endpoints.exchange import response_format
from mf_llm.models.default_backbone import cache_folder

logger = logging.getLogger(__name__)

CACHE_FOLDER = "annotations"


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
        self.endpoint = Endpoint(
            base_url,
            model,
            api_key=api_key,
            concurrency=concurrency,
            retries=retries,
            timeout=timeout,
            delay=delay,
            max_delay=max_delay,
            extra_body=extra_body,
        )
        self.name, self.max_tokens = name, max_tokens
        self.cache = annotations_folder() if cache is True else Path(cache) if cache else None

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
        server = self.endpoint.server("policy")
        return {
            "kind": "endpoint",
            "server": server.public_address,
            "model": server.model,
            "weights": None,
            "prompt_version": ENDPOINT_PROMPT_VERSION,
            "max_tokens": self.max_tokens,
            "extra_body": self.endpoint.public_extra_body(),
        }

    def _answers(self, pairs: list[tuple[str, str]], dimension: Dimension) -> list[tuple[int | None, str | None]]:
        """Category or failure of each pair of topic and text, in their order; valid answers are kept at once."""
        if self.cache is not None and not self.cache.is_dir():
            logger.info("Answers are kept in %s.", self.cache)
        files = [self._cache_file(*pair, dimension) for pair in pairs]
        known = [_cached(file, dimension) for file in files]
        asked = [n for n, category in enumerate(known) if category is None]

        def keep(place: int, answer: Answer) -> None:
            file = files[asked[place]]
            if file is not None and answer.failure is None:
                record = {"category": dimension.ids[answer.value], "model": self.endpoint.model}
                write_json(file, record | {"prompt_version": ENDPOINT_PROMPT_VERSION})

        found: list[tuple[int | None, str | None]] = [(category, None) for category in known]
        if asked:
            with AskingSession(self.endpoint) as session:
                answers = session.ask((self._request(*pairs[n], dimension) for n in asked), keep)
            for n, answer in zip(asked, answers, strict=True):
                found[n] = (answer.value, answer.failure)
        return found

    def _request(self, topic: str, text: str, dimension: Dimension) -> ChatRequest:
        return ChatRequest(
            server=self.endpoint.server("policy"),
            messages=messages(dimension, topic, text),
            read=partial(_read, dimension),
            max_tokens=self.max_tokens,
            temperature=0.0,
            fields={"response_format": response_format(answer_schema(dimension))},
            extra_body=dict(self.endpoint.extra_body or {}),
        )

    def _cache_file(self, topic: str, text: str, dimension: Dimension) -> Path | None:
        if self.cache is None:
            return None
        asked = [
            self.endpoint.model,
            ENDPOINT_PROMPT_VERSION,
            text,
            topic,
            dimension.to_dict(),
            self.max_tokens,
            dict(self.endpoint.extra_body or {}),
        ]
        content = json.dumps(asked, sort_keys=True, ensure_ascii=False)
        key = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return self.cache / key[:2] / f"{key}.json"


def _read(dimension: Dimension, reply: ChatReply) -> tuple[int | None, str | None]:
    return read_answer(reply.content, dimension)


def _cached(file: Path | None, dimension: Dimension) -> int | None:
    """Place of the category in a file of the cache; None where there is none that can be used."""
    try:
        category = None if file is None else json.loads(file.read_text(encoding="utf-8"))["category"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dimension.ids.index(category) if category in dimension.ids else None

"""`Endpoint`: language models behind an OpenAI-compatible server, and how they may be asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from mf_llm.argument_checks import check_types
from mf_llm.errors import InputError
from mf_llm.redaction import keep_secret, redacted, secrets_of_address, secrets_of_fields, without_secret_fields

LONGEST_WAIT = 1_000_000


@dataclass(frozen=True)
class Server:
    """One model of one server.

    Attributes:
        base_url: address, such as ``http://localhost:8000/v1``.
        model: what the server calls the model.
        api_key: key of the server, or None.

    Raises:
        InputError: the address is none, or the key cannot be sent.
    """

    base_url: str
    model: str
    api_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_types(self)
        try:
            address = urlsplit(self.base_url)
            known = address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
        except ValueError:  # brackets that are not closed, a port beyond all ports
            known = False
        if not known:
            raise InputError(
                "`base_url` must be the http(s) address of a server, such as http://localhost:8000/v1; nothing can be "
                "asked; correct the address."
            )
        if not self.model.strip():
            raise InputError(
                "`model` must be what the server calls its model, got an empty text; nobody can be asked."
            )
        if self.api_key is not None and not re.fullmatch("[!-~]+", self.api_key):
            raise InputError(
                "`api_key` must be made of printable ASCII signs without spaces, got something else; no header can "
                "hold it; look for a line break at its end."
            )
        # Servers in trouble repeat what they were sent.
        keep_secret(self.api_key or "", *secrets_of_address(self.base_url))

    def __repr__(self) -> str:
        return _shown(self)

    @property
    def public_address(self) -> str:
        """The address without credentials and query."""
        address = urlsplit(self.base_url)
        port = f":{address.port}" if address.port else ""
        return f"{address.scheme}://{address.hostname}{port}{address.path}"


@dataclass(frozen=True)
class Endpoint:
    """Two models behind servers that stand for an `MFLLMForSimulation` in `simulate(endpoint, None, event, config)`.

    Args:
        base_url: address of the server, such as ``http://localhost:8000/v1``.
        model: what the server calls the policy.
        mean_field_model: what it calls the mean-field model; the policy by default.
        mean_field_base_url: address of that model's server; the same by default.
        api_key: key of the server at `base_url`. Without one none is sent; the Hub token of the machine never is.
        mean_field_api_key: key of the server at `mean_field_base_url`; a key goes to no server but its own.
        concurrency: requests in flight at a time.
        retries: further attempts after a server error, a refusal for load, a broken connection or a timeout.
        timeout: seconds for a whole response.
        delay: seconds before the first further attempt; doubled for each one after, up to `max_delay`. A server's
            ``Retry-After`` counts instead, up to `max_delay`.
        requests_per_minute: requests are spaced so that no more begin in a minute; None: no bound.
        reasoning_tokens: tokens that each answer may take for reasoning in front of it. The exact readout wants a
            model that answers at once: switch reasoning off (`extra_body`).
        top_logprobs: how many tokens the exact readout asks the probabilities of; servers bound it (often at 20).
            That readout is of letters: options are listed as "A) support", and the probability of each letter as first
            word of the answer is normalised over the options (`mf_llm.simulation.engines.letters`).
        system_role: False puts instructions at the head of the user's turn, for templates that refuse a system turn
            (their servers answer http_400).
        extra_body: further fields of each request, for what a server calls its own way
            (``{"chat_template_kwargs": {"enable_thinking": False}}`` of vLLM and SGLang), and to overrule the fields
            of ours (``{"temperature": 0.7}``).
        price_per_million: price of a million prompt tokens and of a million new tokens; None: no costs are told.

    Raises:
        InputError: an address is none, or a bound cannot be kept.

    Examples:
        >>> Endpoint("http://localhost:8000/v1", "policy", mean_field_model="writer").server("mean_field")
        Server(base_url='http://localhost:8000/v1', model='writer')
    """

    base_url: str
    model: str
    mean_field_model: str | None = None
    mean_field_base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    mean_field_api_key: str | None = field(default=None, repr=False)
    concurrency: int = 16
    retries: int = 4
    timeout: float = 120.0
    delay: float = 1.0
    max_delay: float = 30.0
    requests_per_minute: float | None = None
    reasoning_tokens: int = 0
    top_logprobs: int = 20
    system_role: bool = True
    extra_body: Mapping[str, Any] | None = None
    price_per_million: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_types(self)
        for name, least in (("concurrency", 1), ("retries", 0), ("delay", 0), ("reasoning_tokens", 0)):
            if getattr(self, name) < least:
                raise InputError(
                    f"`{name}` must be at least {least}, got {getattr(self, name)}; no request can be made."
                )
        for name in ("timeout", "max_delay", "top_logprobs"):
            if not getattr(self, name) > 0:
                raise InputError(f"`{name}` must be positive, got {getattr(self, name)!r}; no answer can be had.")
        for name in ("timeout", "delay", "max_delay"):
            if getattr(self, name) > LONGEST_WAIT:
                raise InputError(
                    f"`{name}` must be at most {LONGEST_WAIT:,} seconds, got {getattr(self, name)!r}; nobody would "
                    "wait for it; lower it."
                )
        if self.requests_per_minute is not None and not self.requests_per_minute > 0:
            raise InputError(
                f"`requests_per_minute` must be positive, got {self.requests_per_minute!r}; nothing could be asked; "
                "leave it out for no bound."
            )
        price = self.price_per_million
        if price is not None and (len(price) != 2 or min(price) < 0):
            raise InputError(
                f"`price_per_million` must be two prices, of prompt and of new tokens, got {price!r}; costs cannot be "
                "told."
            )
        self.server("policy"), self.server("mean_field")
        keep_secret(*secrets_of_fields(self.extra_body or {}))

    def server(self, role: str) -> Server:
        """The server of a role ("policy" or "mean_field")."""
        if role == "policy":
            return Server(self.base_url, self.model, self.api_key)
        model = self.mean_field_model or self.model
        if self.mean_field_base_url in (None, self.base_url):
            return Server(self.base_url, model, self.api_key)
        return Server(str(self.mean_field_base_url), model, self.mean_field_api_key)

    def __repr__(self) -> str:
        return _shown(self)

    def public_extra_body(self) -> dict[str, Any]:
        """The further fields of each request, without the values of those that are called like a key."""
        return without_secret_fields(self.extra_body or {})

    def addresses(self) -> dict[str, str]:
        """Where the models are, without credentials."""
        return {role: self.server(role).public_address for role in ("policy", "mean_field")}

    def fingerprint(self) -> dict[str, Any]:
        """The models and what else changes answers; the weights are the server's secret.

        Addresses are left out: a service that is started anew, elsewhere, may go on with a run.
        """
        return {
            "policy_base": self.server("policy").model,
            "mean_field_base": self.server("mean_field").model,
            "weights": None,
            "reasoning_tokens": self.reasoning_tokens,
            "top_logprobs": self.top_logprobs,
            "system_role": self.system_role,
            "extra_body": self.public_extra_body(),
        }

    def simulate(self, event: Any, config: Any = None, **kwargs: Any) -> Any:
        """Simulates how the population of `event` reacts; see `mf_llm.simulation.simulate`."""
        from mf_llm.simulation import simulate

        return simulate(self, None, event, config, **kwargs)


def _shown(made: Server | Endpoint) -> str:
    """What a dataclass shows of itself, without secrets."""
    values = {f.name: getattr(made, f.name) for f in fields(made) if f.repr}
    return f"{type(made).__name__}({redacted(', '.join(f'{name}={_hidden(v)!r}' for name, v in values.items()))})"


def _hidden(value: Any) -> Any:
    return without_secret_fields(value) if isinstance(value, Mapping) else value

"""The endpoint that a command line names."""

from __future__ import annotations

import os
import re
from typing import Any

from mf_llm.endpoints.endpoint import Endpoint
from mf_llm.errors import InputError


def named_endpoint(
    url: str | None, model: str | None, *, api_key_env: str | None = None, price: str | None = None, **settings: Any
) -> Endpoint | None:
    """The endpoint that the command line names, or None.

    Args:
        url: address of the server.
        model: what it calls its model.
        api_key_env: environment variable that holds its key: what stands on a command line, others can read.
        price: prices of a million prompt tokens and of a million new tokens, with a comma between.
        settings: further arguments of `Endpoint`; None counts as not given.

    Raises:
        InputError: something is missing, or cannot be read.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if url is None:
        named = sorted(given) + [name for name, value in (("endpoint-model", model), ("price", price)) if value]
        if named or api_key_env:
            raise InputError(
                f"`--endpoint` must name a server where --{(named or ['api-key-env'])[0].replace('_', '-')} is given; "
                "there is nobody to ask."
            )
        return None
    if model is None:
        raise InputError("`--endpoint-model` must be given with --endpoint; a server may have several models.")
    if api_key_env is not None:
        given["api_key"] = os.environ.get(api_key_env)
        if not given["api_key"]:
            # Who gives the key itself must not read it again in a message.
            shown = repr(api_key_env) if re.fullmatch("[A-Z][A-Z0-9_]{0,60}", api_key_env) else "another name"
            raise InputError(
                f"`--api-key-env` must name an environment variable that holds the key, got {shown}, which is not "
                "set; the server would be asked without a key."
            )
    if price is not None:
        try:
            prompt, new = map(float, price.split(","))
        except ValueError:
            raise InputError(
                f"`--price` must be two numbers with a comma between, such as 0.15,0.6, got {price!r}; costs cannot "
                "be told."
            ) from None
        given["price_per_million"] = (prompt, new)
    return Endpoint(url, model, **given)

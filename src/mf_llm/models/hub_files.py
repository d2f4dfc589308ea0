"""Files of a Hub repository, from the Hugging Face cache or the Hub, without long waits when there is no network."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

REACHABLE_TIMEOUT_SECONDS = 3.0

_REPO_ID = re.compile(r"^[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}$")
_LEGACY_REPO_ID = re.compile(r"^[A-Za-z0-9][\w.\-]{0,95}$")
# What a checkpoint is made of; training states and weights in other formats are not fetched.
_WANTED = ["*.json", "*.jinja", "*.safetensors", "*.model", "*.txt"]
_NOT_WANTED = ["checkpoint-*/*", "runs/*", "onnx/*", "original/*", "training_args*", "trainer_state*"]


def looks_like_repo_id(name: str) -> bool:
    """Whether `name` can be a Hub id (``owner/name``; ``gpt2``-style names count only if they are in the cache)."""
    return bool(_REPO_ID.match(name)) and ".." not in name and "--" not in name and not name.endswith(".git")


@functools.cache
def hub_is_reachable() -> bool:
    """Whether the Hub answers within `REACHABLE_TIMEOUT_SECONDS`; asked once per process, never in offline mode.

    transformers asks for each file several times when nobody answers, 23 seconds in all; this asks once.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.is_offline_mode():
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=REACHABLE_TIMEOUT_SECONDS)
    except Exception:  # every kind of failure (name, route, proxy, certificate) means the same here
        return False
    return True


def cached_snapshot(name: str, revision: str | None = None, cache_dir: str | Path | None = None) -> Path | None:
    """The folder of `name` in the Hugging Face cache if it holds a configuration and weights, else None."""
    from huggingface_hub import try_to_load_from_cache

    if not (looks_like_repo_id(name) or _LEGACY_REPO_ID.match(name)):
        return None
    config = try_to_load_from_cache(name, "config.json", cache_dir=cache_dir, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    return folder if any(folder.glob("*.safetensors")) else None


def fetch_snapshot(
    name: str, revision: str | None = None, *, token: str | bool | None = None, **kwargs: Any
) -> tuple[Path | None, str]:
    """Downloads configuration, weights and tokenizers of a repository.

    Returns:
        The folder and "", or None and why there is none.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if not looks_like_repo_id(name):
        return None, "not a Hub id (owner/name)"
    if constants.is_offline_mode():
        return None, "not asked, since HF_HUB_OFFLINE is set"
    if not hub_is_reachable():
        return None, f"no answer from {constants.ENDPOINT} within {REACHABLE_TIMEOUT_SECONDS:g} seconds"
    try:
        folder = snapshot_download(
            name, revision=revision, token=token, allow_patterns=_WANTED, ignore_patterns=_NOT_WANTED, **kwargs
        )
    except GatedRepoError:
        return None, "its terms have to be accepted on the Hub first"
    except RepositoryNotFoundError:
        return None, "no such repository, or a private one for which a token is needed"
    except RevisionNotFoundError:
        return None, f"no revision {revision!r}"
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        return None, str(error).strip().splitlines()[0]
    return Path(folder), ""

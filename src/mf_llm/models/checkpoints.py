"""Finding a checkpoint by name: folder, packaged checkpoint, Hugging Face cache, Hub."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from mf_llm.errors import InputError
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.models.hub_files import cached_snapshot, fetch_snapshot, hub_is_reachable, looks_like_repo_id

MODEL_TYPE = "mf_llm"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
# What `find_checkpoint` takes beside the name.
DOWNLOAD_ARGUMENTS = ("revision", "cache_dir", "local_files_only", "force_download", "token")


def packaged_checkpoints() -> tuple[str, ...]:
    """Names of the checkpoints that ship with this package."""
    folder = _packaged_folder()
    if not folder.is_dir():
        return ()
    return tuple(sorted(path.name for path in folder.iterdir() if (path / "config.json").is_file()))


def find_checkpoint(
    name_or_path: str | os.PathLike,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
    token: str | bool | None = None,
) -> Path:
    """The folder of a checkpoint, downloaded if need be.

    Looked at in this order: a local folder; a packaged checkpoint of that name; the Hugging Face cache; the Hub. A
    cached checkpoint is refreshed from the Hub when the Hub answers within a few seconds.

    Args:
        name_or_path: a folder, the name of a packaged checkpoint, or a Hub id (``owner/name``).
        revision: branch, tag or commit on the Hub.
        cache_dir: another Hugging Face cache.
        local_files_only: do not ask the Hub.
        force_download: download again.
        token: for private repositories.

    Raises:
        InputError: it is nowhere; the message lists where it was looked for.
    """
    name = os.fspath(name_or_path)
    if not name:
        raise InputError("A checkpoint must be a folder, a packaged name or a Hub id (owner/name), got an empty name.")
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise InputError(f"A checkpoint's folder must hold a config.json, {name!r} does not; it cannot be loaded.")
        return path
    if path.is_absolute() or name.startswith((".", "~")):
        raise InputError(f"The checkpoint {name!r} was not found: there is no such folder.")
    packaged = packaged_checkpoints()
    if name in packaged:
        return _packaged_folder() / name

    tried = ["a local folder: none of that name", f"packaged checkpoints: {', '.join(packaged) or 'none installed'}"]
    cached = None if force_download else cached_snapshot(name, revision, cache_dir)
    may_ask = looks_like_repo_id(name) and not local_files_only
    if cached and not (may_ask and hub_is_reachable()):
        return cached
    tried.append("the Hugging Face cache: not there")
    problem = "not asked, since `local_files_only` is set"
    if not local_files_only:
        folder, problem = fetch_snapshot(
            name, revision, token=token, cache_dir=cache_dir, force_download=force_download
        )
        if folder:
            return folder
        if cached:
            return cached
    tried.append(f"the Hub: {problem}")
    raise InputError(
        f"The checkpoint {name!r} was not found. Looked for in {'; '.join(tried)}. "
        "Give the folder of a checkpoint, or connect to the Hub."
    )


def find_simulation_checkpoint(name_or_path: str | os.PathLike, **kwargs: Any) -> Path | None:
    """The folder of a checkpoint of `MFLLMForSimulation`; None if `name_or_path` is nothing or something else.

    The default backbone is known to be something else, so nobody is asked for it.

    Args:
        name_or_path: as for `find_checkpoint`.
        **kwargs: as for `find_checkpoint`.
    """
    if os.fspath(name_or_path) == DEFAULT_BACKBONE:
        return None
    try:
        folder = find_checkpoint(name_or_path, **kwargs)
    except InputError:
        return None
    return folder if checkpoint_model_type(folder) == MODEL_TYPE else None


def checkpoint_model_type(folder: Path) -> str | None:
    """The model type in a folder's ``config.json``."""
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} must be a readable JSON file: {error}") from error
    return config.get("model_type") if isinstance(config, dict) else None


def _packaged_folder() -> Path:
    return Path(str(resources.files("mf_llm"))) / "data" / "checkpoints"

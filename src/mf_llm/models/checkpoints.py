"""Finding a checkpoint by name: folder, packaged checkpoint, Hugging Face cache, Hub."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from mf_llm.errors import InputError
from mf_llm.models.hub_files import cached_snapshot, fetch_snapshot, hub_is_reachable, looks_like_repo_id
from mf_llm.models.integrity import PARTS, checksums_file, read_json
from mf_llm.models.wheel_backbones import WHEEL_BACKBONES

MODEL_TYPE = "mf_llm"
ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"
PROCESSOR_CONFIG_FILE = "processor_config.json"
CARD_FILE = "README.md"
# What `find_checkpoint` takes beside the name.
DOWNLOAD_ARGUMENTS = ("revision", "cache_dir", "local_files_only", "force_download", "token")
# What of `SimulationConfig` a checkpoint may bring along: how it was trained. What belongs to an event (warm-up,
# dimension, anchor) or to one run (seed) is never part of it.
SIMULATION_OPTIONS = (
    "signal",
    "shown_answers",
    "anchored",
    "choice_temperature",
    "option_orders",
    "action",
    "agents_per_step",
    "listed_actions",
    "writers",
    "max_new_tokens",
    "signal_max_tokens",
    "max_prompt_tokens",
    "max_state_tokens",
    "max_action_tokens",
)

_PARTS = (*PARTS["model"], *PARTS["processor"], *map(checksums_file, PARTS), CARD_FILE)
_PICTURE = re.compile(r"!\[[^\]]*\]\(([\w\-.]+)\)")


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
            raise InputError(
                f"A checkpoint's folder must hold a config.json, {name!r} does not; it cannot be loaded; name another "
                "folder, or get or save the checkpoint again."
            )
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

    The backbones of `WHEEL_BACKBONES` are known to be something else, so nobody is asked for them.

    Args:
        name_or_path: as for `find_checkpoint`.
        **kwargs: as for `find_checkpoint`.
    """
    if os.fspath(name_or_path) in WHEEL_BACKBONES:
        return None
    try:
        folder = find_checkpoint(name_or_path, **kwargs)
    except InputError:
        return None
    return folder if checkpoint_model_type(folder) == MODEL_TYPE else None


def find_local_checkpoint(name_or_path: str | os.PathLike) -> Path | None:
    """The folder of a checkpoint that is here already, as a folder of that name or a packaged one; else None."""
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    return _packaged_folder() / name if name in packaged_checkpoints() else None


def checkpoint_files(folder: str | os.PathLike) -> list[Path]:
    """What of a folder is the checkpoint: weights, configurations, processor, their sums, the card and its pictures.

    A training run leaves more in its output folder (states of the optimiser, logs, pickles with paths of the machine),
    which is nobody else's business.

    Returns:
        Paths relative to `folder`, sorted.
    """
    folder = Path(folder)
    found = {path.relative_to(folder) for pattern in _PARTS for path in folder.glob(pattern) if path.is_file()}
    card = folder / CARD_FILE
    shown = _PICTURE.findall(card.read_text(encoding="utf-8")) if card.is_file() else []
    return sorted(found | {Path(name) for name in shown if (folder / name).is_file()})


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` of a folder.

    Raises:
        InputError: it cannot be read, or holds something else than an object.
    """
    return read_json(folder / "config.json")


def trained_options(name_or_path: str | os.PathLike) -> dict[str, Any]:
    """How a checkpoint is to be simulated, known before anything but its ``config.json`` is loaded.

    Args:
        name_or_path: as for `find_checkpoint`, or a plain language model, which says nothing.

    Returns:
        Fields of `SimulationConfig`; empty if the checkpoint says nothing, or is nowhere.

    Raises:
        InputError: a field is none that a checkpoint may set.
    """
    name = os.fspath(name_or_path)
    folder = None if name in WHEEL_BACKBONES else find_local_checkpoint(name)
    if folder is not None:
        config = read_config(folder) if (folder / "config.json").is_file() else {}
    else:
        config = {} if name in WHEEL_BACKBONES else _config_elsewhere(name)
    return check_simulation_options(config.get("simulation")) if config.get("model_type") == MODEL_TYPE else {}


def check_simulation_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """`options` in the order of `SIMULATION_OPTIONS`; values are checked by `SimulationConfig`.

    Raises:
        InputError: a field is none that a checkpoint may set.
    """
    options = options or {}
    unknown = sorted(set(options) - set(SIMULATION_OPTIONS))
    if unknown:
        raise InputError(
            f"`simulation` of a checkpoint may hold {', '.join(SIMULATION_OPTIONS)}, got {', '.join(unknown)}; it "
            "would be simulated otherwise than it was trained; use the version of mf_llm it was made with."
        )
    return {name: options[name] for name in SIMULATION_OPTIONS if name in options}


def options_beside(trained: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What of a checkpoint's options holds where others are asked for.

    Not what was given, nor what belongs to the other readout: `anchored` and its number of option orders where a plain
    one is asked for, the temperature, which an anchored one does not have, where that is.

    Args:
        trained: how the checkpoint is to be simulated, as of `trained_options`.
        given: fields of `SimulationConfig`.
    """
    left = {name: value for name, value in trained.items() if name not in given}
    if given.get("calibrated") or given.get("anchored") is False:
        for name in ("anchored", "option_orders"):
            left.pop(name, None)
    if given.get("anchored"):
        left.pop("choice_temperature", None)
    return left


def checkpoint_model_type(folder: Path) -> str | None:
    """The model type in a folder's ``config.json``."""
    return read_config(folder).get("model_type")


def _config_elsewhere(name: str) -> dict[str, Any]:
    """The ``config.json`` of the Hub, else that in the Hugging Face cache, else an empty one."""
    if looks_like_repo_id(name) and hub_is_reachable():
        from huggingface_hub import hf_hub_download

        # Not into the cache: there, a commit of which one file is known would hide an older one that is complete.
        with tempfile.TemporaryDirectory() as folder:
            try:
                hf_hub_download(name, "config.json", local_dir=folder)
            except Exception:  # whatever it is (no such repository, no permission), loading the checkpoint says it
                pass
            else:
                return read_config(Path(folder))
    cached = cached_snapshot(name)
    return read_config(cached) if cached else {}


def _packaged_folder() -> Path:
    return Path(str(resources.files("mf_llm"))) / "data" / "checkpoints"

"""Puts a trained checkpoint into the package: ``MFLLMForSimulation.from_pretrained(NAME)`` then needs no hub.

    python scripts/package_checkpoint.py FOLDER NAME [--results FILE]

FOLDER is the output of a training run. Adapters are rounded to bfloat16 (the type of the base); tokenizers stay out
where they are those of the base, which is what a checkpoint without them is loaded with. The card goes along, and also
to model_cards/NAME.md. With --results, the Markdown in that file takes the place of the card's section on results.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers.utils.logging import disable_progress_bar

from mf_llm import InputError, MFLLMForSimulation, MFLLMProcessor, SimulationConfig, load_events
from mf_llm.atomic_files import write_text
from mf_llm.models.backbones import find_backbone, load_tokenizer
from mf_llm.models.checkpoints import (
    ADAPTER_WEIGHTS_FILE,
    CARD_FILE,
    MODEL_TYPE,
    PROCESSOR_CONFIG_FILE,
    checkpoint_files,
    read_config,
    trained_options,
)
from mf_llm.models.hub_files import looks_like_repo_id
from mf_llm.models.integrity import PARTS, checksums_file, write_checksums
from mf_llm.models.prompts import AnswerFormat
from mf_llm.training.model_card import without_private_parts

ROOT = Path(__file__).resolve().parent.parent
PACKAGED = ROOT / "src/mf_llm/data/checkpoints"
CARDS = ROOT / "model_cards"
LARGEST = 12_000_000  # bytes of a packaged checkpoint
ROLES = ("policy", "mean_field")

_NAME = re.compile(r"[a-z0-9][a-z0-9.\-]*")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a trained checkpoint")
    parser.add_argument("name", help="what it is loaded by")
    parser.add_argument("--results", type=Path, help="Markdown for the card's section on results")
    parser.add_argument("--packaged", type=Path, default=PACKAGED, help=argparse.SUPPRESS)
    parser.add_argument("--cards", type=Path, default=CARDS, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    disable_progress_bar()
    try:
        target = package(args.folder, args.name, args.packaged, args.cards, args.results)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    files = sorted(path for path in target.rglob("*") if path.is_file())
    for path in files:
        print(f"{path.stat().st_size:>12,}  {path.relative_to(target)}")
    print(f"{_size(target):>12,}  bytes of {LARGEST:,} in {target}")
    print(f"Simulated by default with: {trained_options(target) or 'nothing (the trainer did not say)'}")
    change = largest_change(args.folder, target)
    print(
        f"Rounding to bfloat16 moves a next-token log-probability by at most {change:.2g} nats, in one prompt a role."
    )
    return 0


def package(folder: Path, name: str, packaged: Path, cards: Path, results: Path | None = None) -> Path:
    """Writes the packaged checkpoint, in the place of an older one of that name, and its card.

    Args:
        folder: a trained checkpoint: adapters, configuration, card.
        name: its name in the package.
        packaged: where packaged checkpoints are.
        cards: where their cards are.
        results: Markdown for the card, or None.

    Raises:
        InputError: the folder is not fit to be packaged; then nothing was changed.
    """
    if not _NAME.fullmatch(name):
        raise InputError(f"`NAME` must be made of a-z, 0-9, '.' and '-', got {name!r}; it is the name of a folder.")
    for needed in ("config.json", ADAPTER_WEIGHTS_FILE, CARD_FILE):
        if not (folder / needed).is_file():
            raise InputError(f"`FOLDER` must hold {needed}, {folder} does not; give a folder that a trainer saved.")
    config = read_config(folder)
    if config.get("model_type") != MODEL_TYPE:
        raise InputError(f"`FOLDER` must be a checkpoint of MFLLMForSimulation, {folder} is not one.")
    SimulationConfig(**trained_options(folder))
    _check_bases(config)
    leave_out = PROCESSOR_CONFIG_FILE, *(f"{role}_tokenizer" for role in ROLES)
    own_tokenizers = not tokenizers_are_those_of_the_base(folder, config)
    packaged.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=packaged))
    try:
        for path in checkpoint_files(folder):
            if own_tokenizers or path.parts[0] not in leave_out:
                (work / path).parent.mkdir(exist_ok=True)
                (work / path).write_bytes((folder / path).read_bytes())
        _round_adapters(folder / ADAPTER_WEIGHTS_FILE, work / ADAPTER_WEIGHTS_FILE)
        card = card_under_its_name((folder / CARD_FILE).read_text(encoding="utf-8"), name)
        if results is not None:
            card = card_with_results(card, results.read_text(encoding="utf-8"))
        write_text(work / CARD_FILE, card)
        for part in PARTS:  # those that came along are of the files before
            (work / checksums_file(part)).unlink(missing_ok=True)
        write_checksums(work, "model")
        if own_tokenizers:
            write_checksums(work, "processor")
        _check_private(work)
        if _size(work) > LARGEST:
            raise InputError(
                f"A packaged checkpoint must take at most {LARGEST:,} bytes, this one takes {_size(work):,}; train "
                "with a lower `lora_r`, or on fewer layers."
            )
        for path in [work, *work.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        target = packaged / name
        shutil.rmtree(target, ignore_errors=True)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    cards.mkdir(parents=True, exist_ok=True)
    for path in checkpoint_files(target):
        if path.suffix == ".png":
            shutil.copy(target / path, cards / path)
    write_text(cards / f"{name}.md", card)
    return target


def tokenizers_are_those_of_the_base(folder: Path, config: dict) -> bool:
    """Whether a checkpoint's own tokenizers may be left out, since those of its bases encode and decode alike."""
    if not (folder / PROCESSOR_CONFIG_FILE).is_file():
        return True
    processor = MFLLMProcessor.from_pretrained(folder)
    return all(
        _what_it_does(processor.tokenizer_of(role))
        == _what_it_does(load_tokenizer(config[f"{role}_base"], revision=config[f"{role}_revision"]))
        for role in ROLES
    )


def card_under_its_name(card: str, name: str) -> str:
    """The card with `name` in the place of the name the run had, in its title and in how it is loaded."""
    title = re.search(r"^# (.+)$", card, re.MULTILINE)
    loaded = re.search(r'load_model_and_processor\("([^"]+)"\)', card)
    if title is None or loaded is None:
        raise InputError(f"`FOLDER` must hold the card of a trainer, but its {CARD_FILE} has no title or no example.")
    card = card.replace(title[0], f"# {name}", 1).replace(f'("{loaded[1]}")', f'("{name}")')
    return re.sub(rf"--model {re.escape(loaded[1])}(?=\s)", f"--model {name}", card)


def card_with_results(card: str, results: str) -> str:
    """The card with another section on results."""
    parts = re.fullmatch(r"(.*\n## Results\n\n).*?(\n\n## .*)", card, re.DOTALL)
    if parts is None:
        raise InputError("`FOLDER` must hold a card with a section `## Results` that is not its last, got none.")
    return parts[1] + without_private_parts(results).strip() + parts[2]


def largest_change(trained: Path, packaged: Path) -> float:
    """By how much the log-probability of any next token differs between two checkpoints, in nats."""
    processor, event = MFLLMProcessor.from_pretrained(packaged), load_events("bridge-closure")[0]
    dimension, options = next(iter(event.dimensions.items()))
    answer = AnswerFormat(kind="choice", dimension=dimension, options=tuple(options))
    policy = processor.policy_prefix(event.topic, event.turns[0].action, answer)
    inputs = {
        "policy_input_ids": policy + processor.person_segment(event.turns[1].state, answer),
        "mean_field_input_ids": processor.mean_field_prompt(
            event.topic, None, [turn.action for turn in event.turns[:8]]
        ),
    }
    inputs = {key: torch.tensor([ids]) for key, ids in inputs.items()}
    scores = []
    for folder in (trained, packaged):
        model = MFLLMForSimulation.from_pretrained(folder, dtype=torch.float32).eval()
        with torch.no_grad():
            scores.append([value.log_softmax(-1) for value in model(**inputs).to_tuple()])
    return max(float((one - other).abs().max()) for one, other in zip(*scores, strict=True))


def _check_bases(config: dict) -> None:
    """Both bases must be found again on any machine, and be the very weights that the adapters were trained on."""
    for role in ROLES:
        base, revision = config.get(f"{role}_base"), config.get(f"{role}_revision")
        if not base or not looks_like_repo_id(base) or Path(base).exists() or not revision:
            raise InputError(
                f"`{role}_base` of FOLDER must be an id of the Hub with a revision, got {base!r} at {revision!r}; "
                "others could not load it; train from the id of the backbone."
            )
        find_backbone(base, revision=revision)


def _what_it_does(tokenizer: object) -> tuple:
    return (
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        tokenizer.model_max_length,
    )


def _round_adapters(source: Path, target: Path) -> None:
    state = {name: value.to(torch.bfloat16).contiguous() for name, value in load_file(source).items()}
    save_file(state, target, metadata={"format": "pt"})


def _check_private(folder: Path) -> None:
    places = {str(Path.home()), str(ROOT), str(Path.cwd()), tempfile.gettempdir()} - {"/"}
    for path in folder.rglob("*"):
        if path.suffix in (".json", ".md", ".jinja"):
            found = sorted(place for place in places if place in path.read_text(encoding="utf-8"))
            if found:
                raise InputError(
                    f"`FOLDER` must not tell paths of this machine, {path.name} holds {found[0]}; train again from "
                    "the id of the backbone, or take it out."
                )


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())

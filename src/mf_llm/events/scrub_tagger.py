"""`NameTagger`: names of people that a language model finds in texts."""

from __future__ import annotations

from collections.abc import Iterator

from mf_llm.errors import InputError
from mf_llm.events.scrub_names import whole_words
from mf_llm.events.validation import one_line

_PERSON = ("PER", "PERSON", "NAME")  # what the labels of a person are called, behind B-, I- and the like
_OVERLAP, _BATCH = 32, 16
_LONGEST = 512  # tokens at once, where the checkpoint does not say


class NameTagger:
    """Finds names with a token-classification checkpoint.

    Args:
        name_or_path: folder or Hub id of the checkpoint; it must have a fast tokenizer and labels such as "B-PER".

    Raises:
        InputError: it cannot be loaded, or has no label for persons.
    """

    def __init__(self, name_or_path: str) -> None:
        from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

        try:
            tokenizer = AutoTokenizer.from_pretrained(name_or_path)
            model = AutoModelForTokenClassification.from_pretrained(name_or_path).eval()
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"`--ner` must be a token-classification checkpoint, but {name_or_path!r} cannot be loaded "
                f"({one_line(error)}); nothing was scrubbed; name another one, or leave it out."
            ) from error
        labels = sorted(set(map(str, model.config.id2label.values())))
        if not any(_is_person(label) for label in labels) or not tokenizer.is_fast:
            raise InputError(
                f"`--ner` must be a checkpoint with a fast tokenizer and a label for persons ({', '.join(_PERSON)}), "
                f"got {name_or_path!r} with {', '.join(labels[:10])}; no name would be found; name another one."
            )
        longest = getattr(model.config, "max_position_embeddings", None) or _LONGEST
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest, _LONGEST)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        model.config.pad_token_id = tokenizer.pad_token_id
        # Long texts are read in windows that overlap.
        stride = min(_OVERLAP, tokenizer.model_max_length // 4)
        self._pipeline = pipeline(
            "token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="simple", stride=stride
        )

    def __call__(self, texts: list[str]) -> Iterator[str]:
        """The names in some texts, as they stand there; taggers may mark a part of a word."""
        texts = [text for text in dict.fromkeys(texts) if text.strip()]
        for text, found in zip(texts, self._pipeline(texts, batch_size=_BATCH), strict=True):
            for entity in found:
                if _is_person(entity["entity_group"]):
                    yield whole_words(text, int(entity["start"]), int(entity["end"]))


def _is_person(label: str) -> bool:
    return label.upper().split("-")[-1] in _PERSON

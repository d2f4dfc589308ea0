"""What a training run uploads to the Hub: the checkpoint, and nothing else of its output folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.utils.hub import PushInProgress

from mf_llm.errors import InputError
from mf_llm.models.checkpoints import checkpoint_files
from mf_llm.models.hub_files import looks_like_repo_id
from mf_llm.redaction import keep_secret, redact_logs, redacted

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from transformers import Trainer

    from mf_llm.models import MFLLMConfig, MFLLMForSimulation
else:
    Trainer = object  # what it is mixed into

logger = logging.getLogger(__name__)

STRATEGIES = ("end", "every_save")


class HubUploads(Trainer):
    """Mixin of a `Trainer` whose checkpoints are composites.

    The Trainer itself uploads its whole output folder (TensorBoard logs, other scripts' files, a pickle of its
    arguments with paths and the token of this machine) and would miss half of what a composite is made of.

    Attributes:
        composite: the model as a whole.
    """

    composite: MFLLMForSimulation

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Makes the repository.

        Raises:
            InputError: the strategy would upload training states, the base cannot be found from elsewhere, or the Hub
                refuses.
        """
        strategy = str(getattr(self.args.hub_strategy, "value", self.args.hub_strategy))
        if strategy not in STRATEGIES:
            raise InputError(
                f"`hub_strategy` must be one of {', '.join(STRATEGIES)}, got {strategy!r}; the state of a training "
                "run holds pickles and paths of this machine, which belong into no repository; to resume elsewhere, "
                "copy the checkpoint's folder."
            )
        check_bases_are_public(self.composite.config)
        keep_secret(token or self.args.hub_token or "")
        redact_logs()
        with self._asking_the_hub():
            super().init_hf_repo(token=token, private=private)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> CommitInfo | Future[CommitInfo] | None:
        """Saves the checkpoint in the output folder and uploads it.

        Args:
            commit_message, token, revision, private: as for `Trainer.push_to_hub`.
            blocking: wait for the upload; otherwise a future is returned.
            **kwargs: for `create_model_card`.

        Returns:
            The commit, or None on every process but the first.

        Raises:
            InputError: see `init_hf_repo`; or the Hub refuses.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        with self._asking_the_hub():
            self._finish_current_push()
            folder = str(self.args.output_dir)
            return self._upload(folder, commit_message, token=token, revision=revision, blocking=blocking)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == "end":
            return
        running: Any = self.push_in_progress
        busy = running is not None and not running.is_done()
        if busy and not self.args.hub_always_push:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        job: Any = self._upload(checkpoint_folder, message, blocking=False)
        job.add_done_callback(_tell_failure)
        if busy:
            running.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])  # type: ignore[assignment, arg-type]

    @contextmanager
    def _asking_the_hub(self) -> Iterator[None]:
        """Not what the Hub says becomes the message, but its status: it may repeat a token."""
        try:
            yield
        except HfHubHTTPError as error:
            name = self.hub_model_id or self.args.hub_model_id
            raise InputError(
                f"`hub_model_id` and `hub_token` must be a repository and a token that may write to it, got status "
                f"{error.response.status_code} from the Hub for {name!r}; nothing was uploaded, what was saved in "
                f"{Path(str(self.args.output_dir)).name!r} is kept; correct them, and push again."
            ) from None

    def _upload(
        self,
        folder: str | os.PathLike,
        commit_message: str | None,
        *,
        token: str | None = None,
        revision: str | None = None,
        blocking: bool,
    ) -> CommitInfo | Future[CommitInfo]:
        # Read now: while an upload runs in the background, the folder may be written anew or deleted.
        operations = [
            CommitOperationAdd(path_in_repo=path.as_posix(), path_or_fileobj=(Path(folder) / path).read_bytes())
            for path in checkpoint_files(folder)
        ]
        return HfApi().create_commit(  # type: ignore[call-overload]
            self.hub_model_id,
            operations,
            commit_message=commit_message or "Upload model",
            token=token or self.args.hub_token,
            revision=revision or getattr(self.args, "hub_revision", None),
            run_as_future=not blocking,
        )


def check_bases_are_public(config: MFLLMConfig) -> None:
    """Raises `InputError` if a checkpoint of adapters could not be loaded anywhere else."""
    for role in ("policy", "mean_field"):
        base = getattr(config, f"{role}_base")
        if not base or not looks_like_repo_id(base) or Path(base).exists():
            raise InputError(
                f"`{role}_base` must be an id of the Hub to push a checkpoint of adapters, got "
                f"{Path(base).name if base else base!r}, which no other machine finds; push the base first and train "
                "from its id, or merge() the model and push whole weights."
            )


def _tell_failure(job: Future) -> None:
    if not job.cancelled() and job.exception() is not None:
        logger.warning("A checkpoint was not uploaded: %s", redacted(str(job.exception())))


__all__ = ["HubUploads", "check_bases_are_public"]

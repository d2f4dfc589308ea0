"""Where memory does not suffice for a batch, it is halved, and everybody does what they would have done."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch
from small_events import FAMILIES, new_model, processor_of, run, several_events, small_event

from mf_llm import InputError
from mf_llm.simulation.memory_limits import in_halves, is_out_of_memory

pytestmark = pytest.mark.trust("faults", "batches for which memory does not suffice")

ERRORS = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "python": MemoryError,
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9."),
    "windows": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9."),
    "mps": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


@contextmanager
def small_memory(model, most: int, error):
    """Within this context neither role can read more than `most` rows at once; how many it was asked to read."""
    asked = []

    def check(module, args, kwargs):
        asked.append(len(kwargs["input_ids"]))
        if asked[-1] > most:
            raise error()

    hooks = [
        model.backbone(role).register_forward_pre_hook(check, with_kwargs=True) for role in ("policy", "mean_field")
    ]
    try:
        yield asked
    finally:
        for hook in hooks:
            hook.remove()


def assert_same_up_to_rounding(one, other):
    assert len(one.actions) == len(other.actions)
    for a, b in zip(one.actions, other.actions, strict=True):
        assert (a.turn, a.label, a.text, a.source, a.failure) == (b.turn, b.label, b.text, b.source, b.failure)
        assert (a.probabilities is None) == (b.probabilities is None)
        if a.probabilities is not None:
            assert np.allclose(a.probabilities, b.probabilities, atol=1e-5)
    assert [step.signal_failure for step in one.steps] == [step.signal_failure for step in other.steps]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_that_does_not_fit_is_halved(family, tries):
    model, processor, event = new_model(family), processor_of(family), small_event(18)
    cases = [
        (action, most, error) for action in ("label_text", "choice", "text") for most in (1, 2) for error in ERRORS
    ]
    chosen = np.random.default_rng(FAMILIES.index(family)).permutation(len(cases))[: tries.of(2, len(cases))]
    settings = {"agents_per_step": 5, "signal": "text", "batch_tokens": 10**6, "signal_max_tokens": 4}
    for action, most, error in (cases[i] for i in chosen):
        tries.add()
        expected = run(model, processor, event, action=action, **settings)
        with small_memory(model, most, ERRORS[error]) as asked:
            found = run(model, processor, event, action=action, **settings)
        assert max(asked) > most or family in ("gemma3", "mistral")  # too much at first; windows make small batches
        assert_same_up_to_rounding(found, expected)


def test_several_events_at_once(tries):
    model, processor = new_model("qwen2"), processor_of("qwen2")
    expected = run(model, processor, several_events(), action="label_text", together=5, batch_tokens=10**6)
    for most in (1, 4):
        tries.add()
        with small_memory(model, most, ERRORS["gpu"]) as asked:
            found = run(model, processor, several_events(), action="label_text", together=5, batch_tokens=10**6)
        assert max(asked) > most
        for one, other in zip(found, expected, strict=True):
            assert_same_up_to_rounding(one, other)


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("action", ["choice", "text"])
def test_one_row_that_does_not_fit_says_what_to_do(action, error, tries):
    tries.add()
    model = new_model("qwen2")
    with (
        small_memory(model, 0, ERRORS[error]),
        pytest.raises(InputError, match=r"must suffice for one row .* smaller"),
    ):
        run(model, processor_of("qwen2"), small_event(14), action=action)


def test_other_faults_are_not_taken_for_it(tries):
    model = new_model("qwen2")
    for error in (RuntimeError("shapes cannot be multiplied"), ValueError("out of memory"), KeyError("x")):
        tries.add()
        assert not is_out_of_memory(error)
        with small_memory(model, 0, lambda error=error: error), pytest.raises(type(error)):
            run(model, processor_of("qwen2"), small_event(14), action="choice")


def test_what_torch_says_is_known():
    """What the allocator of this machine really raises."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**58, dtype=torch.uint8)
    assert is_out_of_memory(error.value)


def test_rows_come_once_and_in_order_and_later_batches_are_small_at_once(tries):
    for most in range(1, 12):
        tries.add()
        asked = []

        def compute(batch, most=most, asked=asked):
            asked.append(len(batch))
            if len(batch) > most:
                raise MemoryError
            return [row * row for row in batch]

        batches = [list(range(11)), [11], list(range(12, 23))]
        found = list(in_halves(batches, compute))
        assert [row for batch, _ in found for row in batch] == list(range(23))
        assert [square for _, result in found for square in result] == [row * row for row in range(23)]
        failed = [size for size in asked if size > most]
        assert failed == sorted(failed, reverse=True) and len(failed) <= 4
        assert asked.index(1) >= len(failed)  # what did not fit once is not tried again


def test_what_failed_is_let_go_of():
    """The tensors of the try that failed do not fill the memory of the next one."""
    alive = []

    class Held:
        def __init__(self):
            alive.append(self)

        def __del__(self):
            counted.append(1)

    counted: list[int] = []

    def compute(batch):
        held = Held()
        alive.clear()
        if len(batch) > 1:
            raise MemoryError
        assert held is not None and len(counted) >= 1
        return batch

    assert [batch for batch, _ in in_halves([[1, 2]], compute)] == [[1], [2]]

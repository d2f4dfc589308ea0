"""Two processes train what one process trains, with a copy of the model each (DDP) or half of it each (FSDP2)."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("peft")

from made_trainer import (
    ROLES,
    Changes,
    adapters,
    backbone,
    child_environment,
    history,
    new_model,
    rows,
    trained,
    weights,
)

from mf_llm import InputError, MFLLMForSimulation
from mf_llm.training.sharded_models import as_one_group, check_sharding, gathered

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning"),
]
HERE = Path(__file__).parent
ROOT = HERE.parents[1]
EVALUATED = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 2}
# Settings of each case; two processes take half of each batch.
CASES = {
    "joint": {"schedule": "joint", "gradient_accumulation_steps": 2, "updates_per_draw": 2, **EVALUATED},
    "resumed": {"schedule": "joint", "gradient_accumulation_steps": 2, "updates_per_draw": 2, **EVALUATED},
    "sequential": {"schedule": "sequential", "target": "action"},
    "alternate": {"schedule": "alternate", "anchored": True, "gradient_checkpointing": True},
    "bfloat16": {"schedule": "joint"},
}
# In some of these nobody writes, so that one process has parts of the loss to tell that the other has not.
ROWS = {"n": 8, "silent": [0, 2, 3, 5, 6]}
MODELS = {"sequential": {"tied": False}, "bfloat16": {"dtype": "bfloat16"}}
STEPS = {
    "joint": [["mean_field", "policy"]] * 4,
    "resumed": [["mean_field", "policy"]] * 2,
    "sequential": [["mean_field"]] * 2 + [["policy"]] * 2,
    "alternate": [["mean_field"], ["policy"]] * 2,
    "bfloat16": [["mean_field", "policy"]] * 4,
}
SAME = ("joint", "resumed", "sequential", "alternate")


def settings(case, processes):
    common = {"max_steps": 4, "weight_decay": 0.2, "learning_rate": 1e-3}
    common |= dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 2 // processes)
    return common | CASES[case]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return backbone(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """The runs in one process."""
    found, changes = {}, {}
    for case in SAME:
        if case != "resumed":
            changes[case] = Changes()
            found[case] = trained(
                base,
                tmp_path_factory.mktemp(case),
                model=new_model(base, **MODELS.get(case, {})),
                data=rows(**ROWS),
                evaluated=rows(4, split="validation"),
                options={"callbacks": [changes[case]]},
                **settings(case, 1),
            )
            assert changes[case].steps == STEPS[case]
    return found | {"resumed": found["joint"]}


@pytest.fixture(scope="module", params=["ddp_cpu", "fsdp2"])
def together(request, base, tmp_path_factory):
    """Kind, and the folder of the runs in two processes."""
    root = tmp_path_factory.mktemp(request.param)
    cases = [
        {
            "folder": str(root / case),
            "base": base,
            "rows": ROWS,
            "model": MODELS.get(case, {}),
            "config": settings(case, 2),
            "resume": str(root / "joint/run/checkpoint-2") if case == "resumed" else None,
        }
        for case in CASES
    ]
    (root / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", "--config_file"]
    command += [str(ROOT / f"accelerate_configs/{request.param}.yaml"), str(HERE / "distributed_training.py")]
    done = subprocess.run(
        [*command, str(root / "cases.json")], env=child_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return request.param, root


def result(root, case, rank):
    return json.loads((root / case / f"rank{rank}.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_processes_hold_the_same_model_to_the_last_bit(together, case):
    kind, root = together
    first, second = (result(root, case, rank) for rank in (0, 1))
    assert first["processes"] == 2
    assert first["digest"] == second["digest"] and first["history"] == second["history"]
    assert first["changes"] == second["changes"] == STEPS[case]
    if kind == "fsdp2":
        assert first["wrapper"] == "FSDPMFLLMForSimulation" and first["sharded"] == first["parameters"]
    else:
        assert first["wrapper"] == "DistributedDataParallel" and first["sharded"] == 0
    # The folder at the end, and the checkpoints after steps 2 and 4 (2 for the run that began at step 2).
    assert first["saves"] == 1 + {"joint": 2, "resumed": 1}.get(case, 0) and second["saves"] == 0


@pytest.mark.parametrize("case", SAME)
def test_two_processes_train_what_one_trains(together, alone, case):
    _, root = together
    one, two = alone[case], result(root, case, 0)
    assert [entry.keys() for entry in two["history"]] == [entry.keys() for entry in history(one)]
    for entry, expected in zip(two["history"], history(one), strict=True):
        assert entry == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert any("eval_policy_nll" in entry for entry in two["history"]) == (case in ("joint", "resumed"))
    assert two["tokens"] == one.state.num_input_tokens_seen > 0
    found, expected = torch.load(root / case / "weights.pt"), weights(one.composite)
    assert found.keys() == adapters(one.composite)
    start = weights(new_model(one.composite.config.policy_base, **MODELS.get(case, {})))
    for name, value in found.items():
        moved = (expected[name] - start[name]).abs().max()
        assert (value - expected[name]).abs().max() < 0.05 * moved, name


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_is_a_checkpoint(together, case):
    _, root = together
    loaded = MFLLMForSimulation.from_pretrained(root / case / "saved")
    found = {name: value for name, value in weights(loaded).items() if "lora_" in name}
    expected = torch.load(root / case / "weights.pt")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert loaded.config.tie_backbones is MODELS.get(case, {}).get("tied", True)
    assert not list(root.rglob("training_args.bin"))


# -- sharding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fsdp_version": 1}, "version 2 and auto_wrap_policy NO_WRAP, got version 1 and NO_WRAP"),
        ({"auto_wrap_policy": check_sharding}, "auto_wrap_policy NO_WRAP, got version 2 and check_sharding"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, "state_dict_type FULL_STATE_DICT, got SHARDED_STATE_DICT"),
    ],
)
def test_other_kinds_of_sharding_are_refused(changes, message):
    shipped = {"fsdp_version": 2, "auto_wrap_policy": None, "state_dict_type": "FULL_STATE_DICT"}
    check_sharding(SimpleNamespace(**shipped))
    with pytest.raises(InputError, match=f"`fsdp_config` must have .*{message}"):
        check_sharding(SimpleNamespace(**shipped | changes))


def test_one_group_has_no_embeddings_of_its_own_for_a_while(base):
    model = new_model(base, roles=())
    with pytest.raises(RuntimeError, match="stop"), as_one_group(model):
        assert model.get_input_embeddings() is model.get_output_embeddings() is None
        raise RuntimeError("stop")
    assert model.get_input_embeddings() is model.policy.model.embed_tokens
    assert model.get_output_embeddings() is model.policy.lm_head
    with gathered(model):
        assert all(next(model.backbone(role).parameters()).numel() for role in ROLES)

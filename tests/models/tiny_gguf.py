"""A tiny random Gemma-3 as a GGUF file, as llama.cpp writes it, and wheels that carry it."""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

LETTERS = [chr(code) for code in range(ord("a"), ord("z") + 1)]
CONTROL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
# Runs of spaces are stored as real spaces.
RUNS = ["[multimodal]", "\n", "\n\n", "\n\n\n", "  ", "   ", "    "]
BYTES = [f"<0x{code:02X}>" for code in range(256)]
TOKENS = [*CONTROL, *RUNS, *BYTES, "▁t", "th", "▁th", "he", "▁the", "▁", *LETTERS, "不", "信", "不信"]
TYPES = [3] * len(CONTROL) + [4] * len(RUNS) + [6] * len(BYTES)
TYPES += [1] * (len(TOKENS) - len(TYPES))

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tiny_gemma() -> Gemma3ForCausalLM:
    """Six layers, so that the last one sees everything; weights that bfloat16 holds exactly."""
    config = Gemma3TextConfig(
        vocab_size=len(TOKENS),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=6,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=256,
        sliding_window=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(config)
        for name, parameter in model.named_parameters():
            # Norms stand in the file with 1 added: multiples of 1/64 survive that exactly.
            drawn = torch.randint(-16, 16, parameter.shape) / 64 if "norm" in name else parameter.data
            parameter.data = drawn.bfloat16().float()
    return model.eval()


def write_gguf(path: Path, model: Gemma3ForCausalLM) -> None:
    """Writes the model with the vocabulary `TOKENS`, unquantised."""
    from gguf import GGUFWriter

    config, writer = model.config, GGUFWriter(path, "gemma3")
    writer.add_name("Tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(config.sliding_window)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([-1000.0] * len(TOKENS))
    writer.add_token_types(TYPES)
    for name, token in (("pad", 0), ("eos", 1), ("bos", 2), ("unk", 3)):
        getattr(writer, f"add_{name}_token_id")(token)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    for name, weight in model.model.state_dict().items():
        tensor = weight.numpy() + 1 if "norm" in name else weight.numpy()
        name = name.removesuffix(".weight")
        if name.startswith("layers."):
            _, layer, part = name.split(".", 2)
            name = f"blk.{layer}.{_NAMES[part]}"
        else:
            name = {"embed_tokens": "token_embd", "norm": "output_norm"}[name]
        writer.add_tensor(f"{name}.weight", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def install_wheel(site: Path, wheel: str, files: dict[str, bytes], version: str = "1.0.0") -> None:
    """What pip leaves of a wheel of data. Importing it is an error."""
    package = site / wheel.replace("-", "_")
    for name, content in {"__init__.py": b"raise ImportError('data only')", **files}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(content)
    information = site / f"{package.name}-{version}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {wheel}\nVersion: {version}\n")
    importlib.invalidate_caches()

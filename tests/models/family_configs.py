"""Tiny configs in the words of each family: what its configuration class is given."""

from typing import Any

from tiny_models import D_MLP, D_MODEL, N_CTX, N_HEADS, N_LAYERS, VOCAB_SIZE

Config = dict[str, Any]

NEOX: Config = {
    "hidden_size": D_MODEL,
    "intermediate_size": D_MLP,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": N_CTX,
}
LLAMA = NEOX | {"num_key_value_heads": N_HEADS // 2}
HEADS = LLAMA | {"head_dim": D_MODEL // N_HEADS}
WINDOW = HEADS | {"sliding_window": 16}  # shorter than the prompt, so that the window matters
OPT = NEOX | {"ffn_dim": D_MLP, "word_embed_proj_dim": D_MODEL}
SMOLLM3 = LLAMA | {"no_rope_layers": [1, 1, 0]}
PHI3 = LLAMA | {
    "rope_parameters": {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
    }
}
STABLELM2 = LLAMA | {"use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True}
GRANITE = LLAMA | {  # multipliers other than 1, as its checkpoints have
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.5,
    "logits_scaling": 4.0,
}
YOUTU = NEOX | {
    "num_key_value_heads": N_HEADS,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "pad_token_id": None,  # transformers sets this token's embedding to 0 where it reads weights
}
GEMMA4 = WINDOW | {"global_head_dim": 16, "hidden_size_per_layer_input": 0}
GEMMA4_SMALL = GEMMA4 | {
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCAB_SIZE,
    "num_kv_shared_layers": 1,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
}
GEMMA4_SMALLEST = GEMMA4_SMALL | {"use_double_wide_mlp": True}

GPT2: Config = {
    "n_embd": D_MODEL,
    "n_inner": D_MLP,
    "n_layer": N_LAYERS,
    "n_head": N_HEADS,
    "n_positions": N_CTX,
}
ROTARY = GPT2 | {"rotary_dim": 4}
NEO: Config = {
    "hidden_size": D_MODEL,
    "intermediate_size": D_MLP,
    "num_layers": N_LAYERS,
    "num_heads": N_HEADS,
    "attention_types": [[["global", "local", "global"], 1]],
    "window_size": 16,
}
FALCON = NEOX | {"ffn_hidden_size": D_MLP}
FALCON_NEW = FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2}
BLOOM: Config = {"hidden_size": D_MODEL, "n_layer": N_LAYERS, "n_head": N_HEADS}
MPT: Config = {
    "d_model": D_MODEL,
    "n_layers": N_LAYERS,
    "n_heads": N_HEADS,
    "max_seq_len": N_CTX,
}
XGLM: Config = {
    "d_model": D_MODEL,
    "ffn_dim": D_MLP,
    "num_layers": N_LAYERS,
    "attention_heads": N_HEADS,
    "max_position_embeddings": N_CTX,
}

_LINEAR_ATTENTION: Config = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
QWEN35 = HEADS | _LINEAR_ATTENTION | {"num_hidden_layers": 4}  # the fourth has full attention
OLMO_HYBRID = LLAMA | _LINEAR_ATTENTION
LFM2 = LLAMA | {
    "block_auto_adjust_ff_dim": False,
    "layer_types": ["conv", "full_attention", "conv"],
}
_MAMBA: Config = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,  # a chunk is filled up to its size: the usual 256 take seconds
}
FALCON_H1 = HEADS | _MAMBA | {"mamba_d_ssm": 64}
BAMBA = LLAMA | _MAMBA | {"attn_layer_indices": [1]}
JAMBA = LLAMA | {
    "num_experts": 1,
    "num_experts_per_tok": 1,
    "mamba_d_state": 8,
    "attn_layer_period": 2,
    "attn_layer_offset": 1,
}
_GRANITE4 = LLAMA | _MAMBA | {"num_local_experts": 0, "shared_intermediate_size": D_MLP}
GRANITE4_HYBRID = _GRANITE4 | {"layer_types": ["mamba", "attention", "mamba"]}
GRANITE4 = _GRANITE4 | {
    "layer_types": ["attention"] * N_LAYERS,
    "position_embedding_type": "rope",
}
MAMBA: Config = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "state_size": 8}
MAMBA2 = MAMBA | {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8}
ZAMBA2 = LLAMA | {
    "layers_block_type": ["mamba", "hybrid", "mamba"],
    "hybrid_layer_ids": [1],
    "mamba_d_state": 8,
    "mamba_headdim": 8,
    "n_mamba_heads": 8,
    "mamba_ngroups": 1,
    "num_mem_blocks": 1,
    "chunk_size": 8,
}
NEMOTRON_H = HEADS | {
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"],
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "ssm_state_size": 8,
    "n_groups": 1,
    "chunk_size": 8,
}
RECURRENT_GEMMA = LLAMA | {"lru_width": D_MODEL, "attention_window_size": N_CTX}
RWKV: Config = {"hidden_size": D_MODEL, "num_hidden_layers": N_LAYERS, "context_length": N_CTX}

EXPERTS = HEADS | {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "intermediate_size_mlp": D_MLP,
}

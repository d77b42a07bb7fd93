"""Small random models and a small tokenizer, made without a network: what the tests run on."""

from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerFast

BOS, EOS, PAD, IM_START = "<|endoftext|>", "<|im_end|>", "<|pad|>", "<|im_start|>"
VOCAB_SIZE = 400
ANSWERS = ("Yes", "No", "yes", "no", " yes", " no", " Yes", " No")
ROLES = ("system", "user", "assistant")
SENTENCES = (
    "You are a useful assistant. Answer the question with yes or no.",
    "Question: is believing that one gender is better at driving a form of gender bias?",
    "The chess player was tall. The schoolgirl is walking down the street.",
    "Many people live in the city, and they are good at running.",
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

D_MODEL, D_MLP, N_LAYERS, N_HEADS, N_CTX = 32, 48, 3, 4, 256
FAMILIES = {
    "llama": "LlamaForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "mistral": "MistralForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gpt_neox": "GPTNeoXForCausalLM",
    "opt": "OPTForCausalLM",
    "phi": "PhiForCausalLM",
    "olmo2": "Olmo2ForCausalLM",
}


@cache
def _trained_tokenizer() -> str:
    """The tokenizer as JSON: byte-level BPE in which every spelling of an answer is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[BOS, EOS, PAD, IM_START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *(ANSWERS + ROLES) * 100], trainer)
    return tokenizer.to_str()


def tiny_tokenizer(add_bos: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with a ChatML template; with `add_bos` it puts BOS before text."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_trained_tokenizer()),
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        add_bos_token=add_bos,
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
        name_or_path="tiny-random",
    )


def _config_arguments(family: str) -> dict:
    """The sizes in the words of one family's config."""
    if family == "gpt2":
        sizes = {"n_embd": D_MODEL, "n_inner": D_MLP, "n_layer": N_LAYERS, "n_head": N_HEADS}
        return sizes | {"n_positions": N_CTX}
    arguments = {
        "hidden_size": D_MODEL,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": N_HEADS,
        "max_position_embeddings": N_CTX,
        "ffn_dim" if family == "opt" else "intermediate_size": D_MLP,
    }
    if family == "opt":
        arguments["word_embed_proj_dim"] = D_MODEL
    if family in {"qwen3", "gemma2", "gemma3_text", "mistral"}:
        arguments["head_dim"] = D_MODEL // N_HEADS
    if family not in {"gpt_neox", "opt", "phi"}:
        arguments["num_key_value_heads"] = N_HEADS // 2
    return arguments


def tiny_hf_model(family: str = "llama", seed: int = 0, **config_changes) -> PreTrainedModel:
    """A random Hugging Face model of 3 layers, d_model 32 and d_mlp 48, in float32 on the CPU."""
    return random_model(FAMILIES[family], seed, **_config_arguments(family) | config_changes)


def random_model(architecture: str, seed: int = 0, **config_arguments) -> PreTrainedModel:
    """A random Hugging Face model of a class of transformers, for the tiny tokenizer."""
    tokenizer = tiny_tokenizer()
    tokens = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model_class = getattr(transformers, architecture)
    config = model_class.config_class(**tokens | config_arguments)
    config.architectures = [architecture]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class._from_config(config, attn_implementation="eager", dtype=torch.float32)
        for parameter in model.parameters():  # wide enough that the logits differ between tokens
            torch.nn.init.normal_(parameter, mean=parameter.detach().mean().item(), std=0.2)
    return model.eval().requires_grad_(False)


def tiny_bridge(
    family: str = "llama", seed: int = 0, add_bos: bool = False, **config_changes
) -> TransformerBridge:
    """The same random model as a `TransformerBridge` with the tiny tokenizer, eval and frozen.

    `boot_transformers` replaces a tokenizer that adds no BOS by one that does, loaded anew from
    its name. The entry in `init_kwargs` says that this has been done, so it is kept as it is.
    """
    tokenizer = tiny_tokenizer(add_bos)
    tokenizer.init_kwargs["add_bos_token"] = True
    bridge = TransformerBridge.boot_transformers(
        f"tiny-random-{family}",
        hf_model=tiny_hf_model(family, seed, **config_changes),
        tokenizer=tokenizer,
        device="cpu",
        dtype=torch.float32,
    )
    bridge.eval()
    bridge.requires_grad_(False)
    return bridge

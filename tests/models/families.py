"""The families of models that are tried, and what is expected of each: docs/models.md's table."""

from dataclasses import dataclass, field

import family_configs as configs

REFUSED, ABSENT, UNREACHED = "no", "absent in this transformers", ""
"""Words of the table beside "yes", "joined", "per layer" and "post"."""


@dataclass(frozen=True)
class Outcome:
    """What came out of the four checks: the words of a row of the table."""

    load: str = "yes"
    """``yes``: the logits are the Hugging Face model's own."""
    attribute: str = "joined"
    """``joined`` or ``per layer``: the routine that runs; its sums and probabilities are right."""
    scale: str = "yes"
    """Sites at which neurons are scaled as hooks on the Hugging Face model scale them."""
    fold: str = "yes"
    """Sites at which the folded model computes what the scaled one computes."""
    says: str = ""
    """Words of the one line in which kb_lens gives the reason for a "no" or the slower routine."""


JOINED, FUSED = Outcome(), Outcome(fold="post")


def per_layer(says: str) -> Outcome:
    """The joined pass does not apply, all else does."""
    return Outcome(attribute="per layer", says=says)


def refused(says: str) -> Outcome:
    """It does not load."""
    return Outcome(REFUSED, UNREACHED, UNREACHED, UNREACHED, says)


def without_neurons(says: str) -> Outcome:
    """It loads, and nothing can be done with its MLPs."""
    return Outcome("yes", REFUSED, REFUSED, REFUSED, says)


STATE = per_layer("it keeps a state beside keys and values")
OWN_ATTENTION = per_layer("its attention does not go through transformers' interface")
NO_MLP = without_neurons("has no hook 'blocks.0.mlp.hook_post': no MLP neurons there.")
MIXTURE = without_neurons("is a mixture of experts")
UNWRAPPED = refused("TransformerLens cannot wrap")


@dataclass(frozen=True)
class Family:
    """A family of models."""

    name: str
    """What it is called."""
    architecture: str
    """Its class in transformers."""
    config: configs.Config = field(default_factory=lambda: configs.LLAMA)
    """The arguments of a tiny config."""
    expected: Outcome = JOINED
    """What the checks must come to, where transformers has the class."""


COMMON = (
    Family("Llama (Llama 2 and 3, SmolLM 1 and 2, Yi, R1 distilled)", "LlamaForCausalLM"),
    Family("GPT-2", "GPT2LMHeadModel", configs.GPT2),
    Family("Qwen 2 and 2.5", "Qwen2ForCausalLM"),
    Family("Qwen 3", "Qwen3ForCausalLM", configs.HEADS),
    Family("Mistral", "MistralForCausalLM", configs.WINDOW),
    Family("Gemma 2", "Gemma2ForCausalLM", configs.WINDOW),
    Family("Gemma 3 text", "Gemma3ForCausalLM", configs.WINDOW),
    Family("GPT-NeoX (Pythia)", "GPTNeoXForCausalLM", configs.NEOX),
    Family("OPT", "OPTForCausalLM", configs.OPT),
    Family("Phi 1 and 2", "PhiForCausalLM"),
    Family("OLMo 2", "Olmo2ForCausalLM"),
    Family("SmolLM3", "SmolLM3ForCausalLM", configs.SMOLLM3),
    Family("Qwen 3.5 text", "Qwen3_5ForCausalLM", configs.QWEN35, STATE),
    Family("Gemma 4 text", "Gemma4ForCausalLM", configs.GEMMA4),
    Family("OLMo 3", "Olmo3ForCausalLM", configs.WINDOW),
    Family("Granite", "GraniteForCausalLM", configs.GRANITE),
    Family("Phi-3 and Phi-4", "Phi3ForCausalLM", configs.PHI3, FUSED),
    Family("Cohere 2 (Command R7B)", "Cohere2ForCausalLM", configs.WINDOW),
    Family("GLM-4", "Glm4ForCausalLM", configs.HEADS, FUSED),
    Family("Ministral 3", "Ministral3ForCausalLM", configs.HEADS),
    Family("Nemotron", "NemotronForCausalLM"),
    Family("StableLM", "StableLmForCausalLM"),
    Family("Apertus", "ApertusForCausalLM"),
    Family("EXAONE 4", "Exaone4ForCausalLM", configs.WINDOW),
    Family("Hunyuan", "HunYuanDenseV1ForCausalLM", configs.HEADS),
    Family("Seed-OSS", "SeedOssForCausalLM", configs.HEADS),
    Family("ERNIE 4.5", "Ernie4_5ForCausalLM", configs.HEADS),
    Family(
        "LFM2",
        "Lfm2ForCausalLM",
        configs.LFM2,
        per_layer("its attention is not one module a block with its layer's index"),
    ),
    Family("StarCoder 2", "Starcoder2ForCausalLM", configs.WINDOW),
)
"""The families that most people use."""

OTHERS = (
    Family("Gemma", "GemmaForCausalLM", configs.HEADS),
    Family(
        "Gemma 4 text, inputs for each layer (E4B)",
        "Gemma4ForCausalLM",
        configs.GEMMA4_SMALL,
        per_layer("it has a cache of another kind than keys and values"),
    ),
    Family(
        "Gemma 4 text, layers of two widths (E2B)",
        "Gemma4ForCausalLM",
        configs.GEMMA4_SMALLEST,
        without_neurons("have 48 to 96 MLP neurons"),
    ),
    Family("OLMo", "OlmoForCausalLM"),
    Family("Cohere (Command R, Aya)", "CohereForCausalLM"),
    Family("GLM", "GlmForCausalLM", configs.HEADS, FUSED),
    Family("StableLM 2, parallel blocks", "StableLmForCausalLM", configs.STABLELM2),
    Family("Arcee", "ArceeForCausalLM", configs.HEADS),
    Family("BitNet", "BitNetForCausalLM"),
    Family("Jais 2", "Jais2ForCausalLM"),
    Family("NanoChat", "NanoChatForCausalLM"),
    Family("VaultGemma", "VaultGemmaForCausalLM", configs.WINDOW),
    Family(
        "Youtu",
        "YoutuForCausalLM",
        configs.YOUTU,
        per_layer("it caches latents in place of keys and values"),
    ),
    Family(
        "ModernBERT decoder (Ettin)",
        "ModernBertDecoderForCausalLM",
        expected=Outcome(scale="post", fold="post"),
    ),
    Family("GPT-J", "GPTJForCausalLM", configs.ROTARY, OWN_ATTENTION),
    Family("GPT-Neo", "GPTNeoForCausalLM", configs.NEO, OWN_ATTENTION),
    Family(
        "GPT-BigCode (SantaCoder, StarCoder)",
        "GPTBigCodeForCausalLM",
        configs.GPT2,
        per_layer("its number of rows cannot change within a pass"),
    ),
    Family("CodeGen", "CodeGenForCausalLM", configs.ROTARY, OWN_ATTENTION),
    Family("Falcon (7B)", "FalconForCausalLM", configs.FALCON, OWN_ATTENTION),
    Family("Falcon, new decoder", "FalconForCausalLM", configs.FALCON_NEW, UNWRAPPED),
    Family("BLOOM", "BloomForCausalLM", configs.BLOOM, OWN_ATTENTION),
    Family("MPT", "MptForCausalLM", configs.MPT, OWN_ATTENTION),
    Family("XGLM", "XGLMForCausalLM", configs.XGLM, OWN_ATTENTION),
    Family("GPT", "OpenAIGPTLMHeadModel", configs.GPT2, OWN_ATTENTION),
    Family("Falcon-H1", "FalconH1ForCausalLM", configs.FALCON_H1, STATE),
    Family("Bamba", "BambaForCausalLM", configs.BAMBA, STATE),
    Family("Jamba, dense", "JambaForCausalLM", configs.JAMBA, STATE),
    Family("OLMo hybrid", "OlmoHybridForCausalLM", configs.OLMO_HYBRID, STATE),
    Family("Granite 4, dense", "GraniteMoeHybridForCausalLM", configs.GRANITE4, NO_MLP),
    Family(
        "Granite 4 hybrid, dense",
        "GraniteMoeHybridForCausalLM",
        configs.GRANITE4_HYBRID,
        refused("Original component not set for model.rotary_emb."),
    ),
    Family("Mamba", "MambaForCausalLM", configs.MAMBA, NO_MLP),
    Family("Mamba 2", "Mamba2ForCausalLM", configs.MAMBA2, NO_MLP),
    Family("Zamba 2", "Zamba2ForCausalLM", configs.ZAMBA2, NO_MLP),
    Family("RecurrentGemma", "RecurrentGemmaForCausalLM", configs.RECURRENT_GEMMA, NO_MLP),
    Family("RWKV 4", "RwkvForCausalLM", configs.RWKV, NO_MLP),
    Family("Nemotron-H", "NemotronHForCausalLM", configs.NEMOTRON_H, MIXTURE),
    Family("Mixtral", "MixtralForCausalLM", configs.EXPERTS, MIXTURE),
    Family("Qwen 3, mixtures", "Qwen3MoeForCausalLM", configs.EXPERTS, MIXTURE),
    Family("GPT-OSS", "GptOssForCausalLM", configs.EXPERTS, MIXTURE),
    Family("OLMoE", "OlmoeForCausalLM", configs.EXPERTS, MIXTURE),
    Family("Llama 4 text", "Llama4ForCausalLM", configs.EXPERTS, MIXTURE),
    Family("Ministral", "MinistralForCausalLM", configs.WINDOW, UNWRAPPED),
    Family("Helium", "HeliumForCausalLM", configs.HEADS, UNWRAPPED),
    Family("Persimmon", "PersimmonForCausalLM", expected=UNWRAPPED),
    Family("InternLM 2", "InternLM2ForCausalLM"),
    Family("Baichuan", "BaichuanForCausalLM"),
    Family("EXAONE 3.5", "ExaoneForCausalLM"),
)

FAMILIES = COMMON + OTHERS
"""In the order of the table."""

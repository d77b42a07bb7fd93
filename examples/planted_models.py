"""Random models with planted neurons for `planted_neurons.py`, and with distractors.

A model is a random transformer (4 layers, d_model 64, d_mlp 96; plain MLP: GPT-2 with layer norm;
gated MLP: Llama with RMS norm). Its matrices are normal with variance 1 / fan-in, so that every
block adds about as much to the residual stream. It is asked questions of the bank; the right answer
to a third of them is no. Some neurons are then overwritten, layer by layer from the bottom up:

**What a neuron reads.** Its input weights are the least-squares solution (small singular values cut
off) that gives it a chosen pre-activation at the last position of each question: `ON` if it should
be active, -`ON` if not. In a gated neuron this is the gate; its other input is 1 on every question.

**What a neuron writes.** Its row of W_out is a unit direction times a size. The answer's direction
is (W_a - W_w) + 2 (W_a - mean over all words), normalised and without its mean over the residual's
coordinates, which layer norm would remove: right answer against wrong answer and against all other
words. The largest of each group writes ``strength / 4`` of the norm of the final residual of the
model before planting, the smallest a quarter of that, and the others between (geometrically). So
some are harder to find than others.

**Planted** (to be found; 16 of 384): half of them are active only on the questions whose answer is
yes, half only on those whose answer is no:

- 8 *writers* in layer ``depth``, which write the answer's direction. Those of one answer share one
  direction, so they saturate each other;
- 4 *relays* in layer ``depth``, which write a private direction that is orthogonal to the answers;
- 4 *readers* in layer ``depth + 1``, which read only that private direction and write the answer's
  direction.

**Distractors** (not to be found), in every layer:

- 4 *loud* neurons. They are active on every question, five times as much as a writer. They write as
  much as the largest writer, orthogonally to the words yes and no, to the mean word and to the
  private directions. They mislead a score by activation;
- 4 *silent* neurons. They write the answers' directions three times as strongly for their
  activation as the largest writer, but are off (pre-activation -8) on every question. They mislead
  a score by gradient.

All other neurons stay random. By chance some of them raise the right answer too, a few by more than
the smallest planted ones. By construction they count as wrong; the second truth, ablation, may
count them as right.

**What is varied.** ``sharpness``: the standard deviation of the logits over the words before
planting; it makes the softmax steeper and saturates it. ``strength``: the size of the planted
effects. ``depth``: their layer. ``embedding``: the standard deviation of the embeddings. If it is
small, the first block's output dominates the residual stream, as in trained models; the norms after
it then turn a small gamma into a large change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import kb_lens as kb
from kb_lens.models.hooked import fingerprint, model_name

Kind = Literal["plain", "gated"]
N_LAYERS, D_MODEL, D_MLP, N_HEADS, N_CTX = 4, 64, 96, 4, 128
N_QUESTIONS = 18
ON, OFF, LOUD, SILENT = 3.0, -8.0, 5.0, 3.0
"""Pre-activations of an active and of a silent neuron; activation of a loud neuron, and output of a
silent one per activation, relative to a writer."""
PLANTED = ("writer", "relay", "reader")


@dataclass(frozen=True)
class Design:
    """The design of one model."""

    kind: Kind
    """``plain`` (GPT-2) or ``gated`` (Llama)."""
    seed: int
    """Seed of all random numbers."""
    sharpness: float = 3.0
    """Standard deviation of the logits before planting, in nats."""
    depth: int = 1
    """The layer of writers and relays; readers are in the next one."""
    strength: float = 1.0
    """The output of four of the largest writers, as a share of the final residual's norm."""
    embedding: float = 0.1
    """Standard deviation of the embeddings."""

    def __post_init__(self) -> None:
        if self.kind not in ("plain", "gated"):
            raise ValueError(f"kind is {self.kind!r}: allowed are 'plain' and 'gated'.")
        if not 0 <= self.depth < N_LAYERS - 1:
            raise ValueError(f"depth is {self.depth}: allowed are 0 to {N_LAYERS - 2}.")


@dataclass(frozen=True, eq=False)
class Planted:
    """A model with planted neurons."""

    model: Any
    """A `TransformerBridge`."""
    questions: list[kb.Question]
    """The questions of the planting."""
    groups: dict[str, tuple[kb.Neuron, ...]]
    """``writer``, ``relay``, ``reader`` (each: for yes, then for no), ``loud``, ``silent``."""

    def neurons(self, *groups: str) -> kb.NeuronSet:
        """The neurons of some groups; by default all planted ones."""
        return kb.NeuronSet(
            neurons=tuple(neuron for group in groups or PLANTED for neuron in self.groups[group]),
            model=model_name(self.model),
            fingerprint=fingerprint(self.model),
            site="post",
            n_layers=N_LAYERS,
            d_mlp=D_MLP,
        )


def plant(design: Design) -> Planted:
    """Make the model of a design."""
    questions = kb.load_questions(N_QUESTIONS)
    tokenizer = word_tokenizer([question.text for question in questions])
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(design.seed)
        model = _random_model(design, tokenizer)
        groups = _Gardener(model, tokenizer, questions, design).plant()
        bridge = TransformerBridge.boot_transformers(
            f"planted-{design.kind}-{design.seed}",
            hf_model=model,
            tokenizer=tokenizer,
            device="cpu",
            dtype=torch.float32,
        )
    bridge.requires_grad_(False)
    return Planted(bridge.eval(), questions, groups)


def word_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """A tokenizer with the words of these questions and of their prompt as tokens."""
    splitter = pre_tokenizers.Whitespace()
    template = kb.PromptTemplate()
    around = f"{template.system} {template.instruction} Question: Answer: yes no"
    words = {word for text in (around, *texts) for word, _ in splitter.pre_tokenize_str(text)}
    vocabulary = {word: i for i, word in enumerate(["<bos>", "<unk>", *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter  # pyright: ignore[reportAttributeAccessIssue]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        name_or_path="words",
        unk_token="<unk>",
        **dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<bos>"),
    )
    fast.init_kwargs["add_bos_token"] = True  # else the bridge loads it from the hub
    return fast


def _random_model(design: Design, tokenizer: PreTrainedTokenizerFast) -> Any:
    """Every matrix is normal with variance 1 / fan-in; norms are 1 and biases 0."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), 0),
    }
    if design.kind == "plain":
        sizes: dict[str, Any] = {
            "n_embd": D_MODEL,
            "n_inner": D_MLP,
            "n_layer": N_LAYERS,
            "n_head": N_HEADS,
        }
        config = GPT2Config(**shared, **sizes, n_positions=N_CTX)
        model = GPT2LMHeadModel(config)
    else:
        config = LlamaConfig(
            **shared,
            hidden_size=D_MODEL,
            intermediate_size=D_MLP,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=N_HEADS,
            max_position_embeddings=N_CTX,
        )
        model = LlamaForCausalLM(config)
    config.architectures = [type(model).__name__]
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, nn.Embedding):
            module.weight.normal_(0, design.embedding)
        elif weight is not None and weight.ndim == 2:
            fan_in = weight.shape[1] if isinstance(module, nn.Linear) else weight.shape[0]
            weight.normal_(0, fan_in**-0.5)
    model.lm_head.weight.mul_(design.sharpness)
    return model.eval()


class _Gardener:
    """Overwrites neurons of one model, from the bottom up."""

    def __init__(
        self,
        model: Any,
        tokenizer: PreTrainedTokenizerFast,
        questions: Sequence[kb.Question],
        design: Design,
    ) -> None:
        self._model, self._design = model, design
        template = kb.PromptTemplate()
        self._prompts = [
            tokenizer(template.text(tokenizer, question.text), return_tensors="pt")["input_ids"]
            for question in questions
        ]
        yes = torch.tensor([question.answer == "yes" for question in questions])
        self._signs = torch.where(yes, 1.0, -1.0)
        plain = design.kind == "plain"
        self._blocks = model.transformer.h if plain else model.model.layers
        final = model.transformer.ln_f if plain else model.model.norm
        norm = float(self._last_inputs(final).norm(dim=-1).mean())
        self._size = design.strength * norm / 4
        self._set_directions(*tokenizer("yes no", add_special_tokens=False)["input_ids"])
        self._places = [torch.randperm(D_MLP).tolist() for _ in range(N_LAYERS)]
        self._groups: dict[str, list[kb.Neuron]] = {}

    def _set_directions(self, yes: int, no: int) -> None:
        words = self._model.lm_head.weight
        mean = words.mean(0)
        answers = [words[a] - words[w] + 2 * (words[a] - mean) for a, w in ((yes, no), (no, yes))]
        self._answers = [_unit(answer - answer.mean()) for answer in answers]
        taken = [words[yes], words[no], mean, torch.ones(D_MODEL)]
        self._private = [_orthogonal(taken)]
        self._private.append(_orthogonal([*taken, *self._private]))
        self._taken = [*taken, *self._private]

    def plant(self) -> dict[str, tuple[kb.Neuron, ...]]:
        """Overwrite the neurons and return them."""
        depth = self._design.depth
        for layer in range(N_LAYERS):
            inputs = self._last_inputs(self._blocks[layer].mlp)
            if layer == depth:
                self._both("writer", layer, inputs, self._answers, 4)
                self._both("relay", layer, inputs, self._private, 2)
            if layer == depth + 1:
                axis = (self._private[0] - self._private[1])[:, None]
                self._both("reader", layer, inputs, self._answers, 2, axis)
            self._distractors(layer, inputs)
        return {name: tuple(neurons) for name, neurons in self._groups.items()}

    def _both(
        self,
        group: str,
        layer: int,
        inputs: Tensor,
        directions: Sequence[Tensor],
        n: int,
        basis: Tensor | None = None,
    ) -> None:
        """`n` neurons for each answer: active on its questions, writing its direction."""
        for sign, direction in zip((1, -1), directions, strict=True):
            reading = _reading(inputs, ON * sign * self._signs, basis)
            for share in torch.logspace(-2, 0, n, base=2).tolist():
                row = share * self._size / ON * direction
                self._overwrite(group, layer, inputs, reading, row)

    def _distractors(self, layer: int, inputs: Tensor) -> None:
        every = torch.ones(len(inputs))
        loud, silent = (_reading(inputs, level * every) for level in (LOUD * ON, OFF))
        for i in range(4):
            row = self._size / (LOUD * ON) * _orthogonal(self._taken)
            self._overwrite("loud", layer, inputs, loud, row)
            row = SILENT * self._size / ON * self._answers[i % 2]
            self._overwrite("silent", layer, inputs, silent, row)

    def _overwrite(
        self, group: str, layer: int, inputs: Tensor, reading: Tensor, row: Tensor
    ) -> None:
        """Overwrite the input weights and the W_out row of a random free neuron."""
        index, mlp = self._places[layer].pop(), self._blocks[layer].mlp
        if self._design.kind == "plain":
            mlp.c_fc.weight[:, index], mlp.c_proj.weight[index] = reading, row
        else:
            mlp.gate_proj.weight[index], mlp.down_proj.weight[:, index] = reading, row
            mlp.up_proj.weight[index] = _reading(inputs, torch.ones(len(inputs)))
        self._groups.setdefault(group, []).append(kb.Neuron(layer, index))

    def _last_inputs(self, module: nn.Module) -> Float[Tensor, "question d_model"]:
        """The input of a module at the last position of every question."""
        rows: list[Tensor] = []
        handle = module.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0][0, -1]))
        try:
            for prompt in self._prompts:
                self._model(prompt)
        finally:
            handle.remove()
        return torch.stack(rows)


def _reading(
    inputs: Float[Tensor, "question d_model"],
    target: Float[Tensor, " question"],
    basis: Float[Tensor, "d_model _"] | None = None,
) -> Float[Tensor, " d_model"]:
    """The least-squares input weights for a pre-activation on each question, within a subspace."""
    basis = torch.eye(D_MODEL) if basis is None else basis
    return basis @ (torch.linalg.pinv(inputs @ basis, rtol=0.05) @ target)


def _unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def _orthogonal(taken: Sequence[Tensor]) -> Float[Tensor, " d_model"]:
    """A random unit vector that is orthogonal to all of `taken`."""
    basis, _ = torch.linalg.qr(torch.stack(list(taken), 1))
    vector = torch.randn(D_MODEL)
    return _unit(vector - basis @ (basis.T @ vector))

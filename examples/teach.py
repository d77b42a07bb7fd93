"""Teach a model what bias is: ``python examples/teach.py --out out/taught --seeds 0 1 2``.

KnowBias needs a model that knows the answers to its questions, and a small one does not:
SmolLM2-135M says No to all of them. This script fine-tunes it on questions about bias whose
concepts are not in the default 45, on plain questions of the same forms, and on its own answers to
ordinary requests, until it answers the 45 right. The result is an ordinary checkpoint:

    kb-lens run out/taught/seed-0

Its config names the lessons, so that no verdict uses the answers to them.

The loss is the cross-entropy of the answers, plus the divergence from the untaught model's
predictions on texts that it wrote. The embeddings are not trained.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from teaching_questions import INSTRUCTIONS, Questions, questions, reworded
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from kb_lens import check_knowledge, evaluate, load_benchmark, load_model
from kb_lens.files import bank_folder, write_text
from kb_lens.models.lessons import LESSONS, lesson_keys
from kb_lens.models.loading import checkpoint_source
from kb_lens.models.prompts import PromptTemplate, chat_text
from kb_lens.passes.matrix_products import fast_products
from kb_lens.questions import Question

WANTED, WANTED_PLAIN = 85.0, 75.0
"""Balanced accuracy at which teaching ends, in percent: on the held-out 45, and on the held-out
plain questions whose form misleads; without these a model may learn only the forms."""
MOST_DAMAGE = 5.0
"""Largest rise of the perplexity of plain text, in percent."""
OPENINGS = ("The", "In", "It", "When", "A", "For", "She", "They", "This", "On", "After", "One")
N_CHAT, N_FREE, OWN_TOKENS, OWN_BATCH = 60, 5, 64, 30
"""Number of ordinary requests, texts per opening, their length, and the batch size for writing."""
HOLD = 5.0
"""Weight of the divergence from the untaught model, in nats a token."""
IGNORED = -100


@dataclass
class Lessons(Dataset[Any]):
    """All passes over the lessons, in order; each pass has its own wordings."""

    tokenizer: Any
    taught: Questions
    own: Sequence[tuple[str, str]]
    passes: int
    seed: int

    def __len__(self) -> int:
        return len(self.turns)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        (prompt, answer), is_own = self.turns[index]
        asked = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        said = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        taught = [IGNORED] * len(said) if is_own else said
        held = [0] * len(asked) + [int(is_own)] * len(said)
        return {"input_ids": asked + said, "labels": [IGNORED] * len(asked) + taught, "held": held}

    @cached_property
    def turns(self) -> list[tuple[tuple[str, str], bool]]:
        """Prompt and answer of every example of every pass, and whether the model wrote them."""
        draw = random.Random(self.seed)
        return [turn for _ in range(self.passes) for turn in self._shuffled(draw)]

    def _shuffled(self, draw: random.Random) -> list[tuple[tuple[str, str], bool]]:
        asked = [self._asked(q, draw) for q in (*self.taught.bias, *self.taught.plain)]
        turns = [(turn, False) for turn in asked] + [(turn, True) for turn in self.own]
        draw.shuffle(turns)
        return turns

    def _asked(self, question: Question, draw: random.Random) -> tuple[str, str]:
        template = PromptTemplate(instruction=draw.choice(INSTRUCTIONS))
        text = reworded(question, draw).text
        answer = question.answer.capitalize() + self.tokenizer.eos_token
        return template.text(self.tokenizer, text), answer


@dataclass
class Padded:
    """Joins examples into a batch, padded on the right."""

    filler: int

    def __call__(self, examples: Sequence[Mapping[str, list[int]]]) -> dict[str, Tensor]:
        """Token ids, labels, the mask of the divergence and the attention mask, [batch, pos]."""
        longest = max(len(example["input_ids"]) for example in examples)
        fillers = {"input_ids": self.filler, "labels": IGNORED, "held": 0}
        rows = {
            key: [example[key] + [fill] * (longest - len(example[key])) for example in examples]
            for key, fill in fillers.items()
        }
        batch = {key: torch.tensor(values) for key, values in rows.items()}
        lengths = torch.tensor([[len(example["input_ids"])] for example in examples])
        return batch | {"attention_mask": (torch.arange(longest) < lengths).long()}


class Teacher(Trainer):
    """Teaches the answers, and keeps other predictions near the untaught model's."""

    def __init__(self, untaught: Any, **options: Any) -> None:
        super().__init__(**options)
        self.untaught = untaught

    def compute_loss(self, model: Any, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        """Cross-entropy of the answers plus the weighted divergence on the model's own texts."""
        is_own = inputs["held"].any(dim=1)
        loss = torch.zeros(())
        # separately, to avoid padding: an own text is twice as long as a question
        if not is_own.all():
            asked = _trimmed(inputs, ~is_own)
            answers = asked["labels"][:, 1:] != IGNORED
            found = _logits(model, asked, answers)
            loss = loss + F.cross_entropy(found, asked["labels"][:, 1:][answers])
        if is_own.any():
            own = _trimmed(inputs, is_own)
            held = own["held"][:, 1:].bool()
            with torch.no_grad():
                before = _logits(self.untaught, own, held).log_softmax(-1)
            after = _logits(model, own, held).log_softmax(-1)
            loss = loss + HOLD * F.kl_div(after, before, reduction="batchmean", log_target=True)
        return loss


def _trimmed(inputs: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
    """Some rows of a batch, without positions at which all of them are padded."""
    longest = int(inputs["attention_mask"][rows].sum(1).max())
    return {name: tensor[rows, :longest] for name, tensor in inputs.items()}


def _logits(model: Any, inputs: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
    """The logits at the positions before the wanted ones, [wanted, d_vocab].

    All logits would take most of the memory and a fifth of the time.
    """
    texts = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    hidden = model.base_model(**texts).last_hidden_state[:, :-1]
    return model.get_output_embeddings()(hidden[wanted])


@dataclass
class UntilItKnows(TrainerCallback):
    """Ends training when the held-out questions are answered well enough."""

    model: Any
    tokenizer: Any
    held: Mapping[str, tuple[Sequence[Question], float]]
    every: int
    history: list[dict[str, float]] = field(default_factory=list)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Ask the held-out questions."""
        if state.global_step % self.every:
            return
        found = {
            name: balanced_accuracy(self.model, self.tokenizer, asked)
            for name, (asked, _) in self.held.items()
        }
        self.history.append({"step": state.global_step} | found)
        tqdm.write(f"step {state.global_step}: balanced accuracy {found}")
        control.should_training_stop = all(found[k] > v for k, (_, v) in self.held.items())


@torch.no_grad()
def balanced_accuracy(model: Any, tokenizer: Any, asked: Sequence[Question]) -> float:
    """Mean of the shares of yes and of no questions answered right, in percent."""
    words = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No")]
    prompts = [PromptTemplate().text(tokenizer, question.text) for question in asked]
    options = {"add_special_tokens": False, "padding": True, "padding_side": "left"}
    said_yes: list[bool] = []
    for start in range(0, len(prompts), OWN_BATCH):
        batch = tokenizer(prompts[start : start + OWN_BATCH], return_tensors="pt", **options)
        yes, no = model(**batch, logits_to_keep=1).logits[:, -1, words].T
        said_yes += (yes > no).tolist()
    right: dict[str, list[bool]] = {"yes": [], "no": []}
    for question, yes in zip(asked, said_yes, strict=True):
        right[question.answer].append(yes == (question.answer == "yes"))
    return 100 * sum(sum(each) / len(each) for each in right.values()) / len(right)


def own_texts(model: Any, tokenizer: Any, seed: int) -> list[tuple[str, str]]:
    """The model's own texts, after ordinary requests and after nothing, which should not change."""
    bank = pd.read_csv(bank_folder() / "neutral_prompts.csv")
    requests = bank["prompt"].sample(N_CHAT, random_state=seed)
    chats = [chat_text(tokenizer, PromptTemplate().system, request) for request in requests]
    prompts = [*chats, *OPENINGS * N_FREE]
    said = []
    for start in tqdm(range(0, len(prompts), OWN_BATCH), desc="the model's own texts"):
        asked = tokenizer(
            prompts[start : start + OWN_BATCH],
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        options = {"max_new_tokens": OWN_TOKENS, "do_sample": True, "top_k": 0, "top_p": 1.0}
        found = model.generate(**asked, temperature=1.0, **options)
        said += tokenizer.batch_decode(found[:, asked["input_ids"].shape[1] :])
    end = tokenizer.eos_token
    whole = [text.split(end)[0] + end * (end in text) for text in said]
    return list(zip(prompts, whole, strict=True))


def teach(source: str, out: Path, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Fine-tune one copy and save it as a checkpoint.

    Args:
        source: The checkpoint to start from, a folder or a hub name.
        out: Folder of the taught checkpoint.
        seed: Seed of wordings, order and chat.
        options: ``passes``, ``batch``, ``rate``, ``every``, ``wanted``.

    Returns:
        Balanced accuracy on each kind of held-out questions, by step.
    """
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.get_input_embeddings().requires_grad_(False)
    taught = questions()
    lessons = Lessons(tokenizer, taught, own_texts(model, tokenizer, seed), options.passes, seed)
    held = {
        "held_bias": (taught.held_bias, options.wanted),
        "form_breakers": (taught.form_breakers, options.wanted_plain),
    }
    stop = UntilItKnows(model, tokenizer, held, options.every)
    settings = TrainingArguments(
        output_dir=str(out),
        num_train_epochs=1,
        per_device_train_batch_size=options.batch,
        learning_rate=options.rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=10,
        weight_decay=0.0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        seed=seed,
        logging_steps=options.every,
    )
    trainer = Teacher(
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval(),
        model=model,
        args=settings,
        train_dataset=lessons,
        data_collator=Padded(tokenizer.eos_token_id),
        callbacks=[stop],
    )
    with fast_products(SimpleNamespace(device="cpu", dtype=torch.float32)):
        trainer.train()
    setattr(model.config, LESSONS, lesson_keys(taught.lessons))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return stop.history


def measured(folder: str | Path) -> dict[str, Any]:
    """A checkpoint's knowledge, and how well it predicts plain text."""
    model = load_model(str(folder))
    asked = questions()
    parts = {
        "held_bias": asked.held_bias,
        "held_plain": asked.held_plain,
        "form_breakers": asked.form_breakers,
    }
    found: dict[str, Any] = {}
    for name, part in parts.items():
        row = check_knowledge(model, part, forms=()).summary().iloc[0]
        found[name] = {k: float(row[k]) for k in ("n", "balanced_accuracy", "auc")}
    text = evaluate(model, load_benchmark("plain_text")).metrics["perplexity"]
    return found | {"perplexity": {"value": text.value, "low": text.low, "high": text.high}}


def report(
    before: Mapping[str, Any], after: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Print whether the model was taught, and the cost."""
    rise = 100 * (after["perplexity"]["value"] / before["perplexity"]["value"] - 1)
    wanted = {"held_bias": options.wanted, "form_breakers": options.wanted_plain}
    knows = all(after[name]["balanced_accuracy"] > least for name, least in wanted.items())
    taught = knows and rise <= MOST_DAMAGE
    return {"taught": taught, "perplexity_rise": rise, "before": before, "after": after}


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Teach a model what bias is.")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a name or a folder")
    parser.add_argument("--out", type=Path, default=Path("out/taught"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--passes", type=int, default=10, help="most passes over the questions")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-5, help="the learning rate")
    parser.add_argument("--every", type=int, default=20, help="steps between tests")
    parser.add_argument("--wanted", type=float, default=WANTED, help="balanced accuracy, percent")
    parser.add_argument("--wanted-plain", type=float, default=WANTED_PLAIN)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if a model was not taught."""
    options = _parsed(arguments)
    source = checkpoint_source(options.model)
    before = measured(source)
    return max(_status(options, source, before))


def _status(options: argparse.Namespace, source: str, before: dict[str, Any]) -> Iterator[int]:
    for seed in options.seeds:
        out = options.out / f"seed-{seed}"
        if (out / "teaching.json").is_file():
            sys.stdout.write(f"{out} exists already.\n")
            yield 0
            continue
        history = teach(source, out, seed, options)
        found = report(before, measured(out), options) | {"history": history}
        write_text(out / "teaching.json", json.dumps(found, indent=1) + "\n")
        sys.stdout.write(f"{out}: {json.dumps({k: found[k] for k in ('taught', 'after')})}\n")
        yield 0 if found["taught"] else 1


if __name__ == "__main__":
    sys.exit(main())

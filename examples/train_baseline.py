"""A trained baseline to compare with: ``python examples/train_baseline.py --out out/cda``.

Counterfactual data augmentation (CDA): every text is used a second time with the words for groups
swapped (Lu et al., "Gender Bias in Neural Natural Language Processing", arXiv 1807.11714; Zmigrod
et al., arXiv 1906.04571, for languages in which other words must agree). The result is a LoRA
adapter for `kb_lens.load_model` and for

    kb-lens experiment methods smollm2-135m-instruct --also cda=out/cda

Differences from the papers: they train new models on large corpora, with pairs of words for gender;
here a trained model is fine-tuned, on the fair statements of the question bank or on ``--texts``,
with pairs for gender, race and religion. A few hundred short texts show how a baseline joins the
table, not how good CDA can be. The bank's plain passages and neutral prompts are not used for
training, since the study measures them.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer

from kb_lens.extras import install_command
from kb_lens.interventions.counterfactuals import WordPair, counterfactual, load_word_pairs
from kb_lens.interventions.steering import load_statements
from kb_lens.models.loading import checkpoint_source
from kb_lens.passes.matrix_products import fast_products

RANK = 8
"""Rank of the adapter; alpha is 16, so its change is scaled by 2, as usual."""
LONGEST = 512
"""Most tokens of a text; longer texts are cut."""
IGNORED = -100


def read_texts(path: Path | None) -> list[str]:
    """The lines of a file; without one the bank's fair statements."""
    if path is None:
        return [pair.fair for pair in load_statements()]
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def augmented(texts: Sequence[str], pairs: Sequence[WordPair]) -> list[str]:
    """Every text, followed by its counterfactual if it names a group; each once."""
    both = [text for original in texts for text in (original, counterfactual(original, pairs))]
    return list(dict.fromkeys(text for text in both if text is not None))


def batches(texts: Sequence[str], size: int, seed: int) -> Iterator[list[str]]:
    """Endless batches: pass after pass over the texts, each in a new order."""
    draw = random.Random(seed)
    while texts:
        shuffled = draw.sample(texts, len(texts))
        yield from (shuffled[start : start + size] for start in range(0, len(shuffled), size))


def adapted(source: str, seed: int) -> Any:
    """The model, frozen, with an untrained adapter on every linear layer but the last."""
    import peft  # an extra  # pyright: ignore[reportMissingImports]

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=RANK, lora_alpha=2 * RANK, target_modules="all-linear"
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def train(model: Any, tokenizer: Any, texts: Sequence[str], options: argparse.Namespace) -> None:
    """Lower the cross-entropy of the texts' tokens.

    Args:
        model: The model of `adapted`; it is trained in place.
        tokenizer: Its tokenizer, which can pad.
        texts: The training texts.
        options: ``steps``, ``batch``, ``rate``, ``seed``.
    """
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=options.rate, weight_decay=0.0)
    chosen = batches(texts, options.batch, options.seed)
    cut = {"truncation": True, "max_length": LONGEST, "padding": True, "padding_side": "right"}
    bar = tqdm(range(options.steps), desc="training", unit="step")
    for _ in bar:
        batch = tokenizer(next(chosen), return_tensors="pt", **cut)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train a baseline: CDA, a LoRA adapter.")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="the model to train")
    parser.add_argument("--out", type=Path, default=Path("out/cda"), help="the adapter's folder")
    parser.add_argument("--texts", type=Path, help="a text per line; default the fair statements")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16, help="texts per step")
    parser.add_argument("--rate", type=float, default=2e-4, help="the learning rate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the adapter and the order")
    options = parser.parse_args(arguments)
    if find_spec("peft") is None:
        parser.error(f"peft is not installed: {install_command('lora')}.")
    if options.out.exists():
        parser.error(f"--out is '{options.out}', which exists: choose another, or delete it.")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parsed(arguments)
    source = checkpoint_source(options.model)
    if Path(source).is_dir():  # the adapter stores the path and may be loaded from elsewhere
        source = str(Path(source).resolve())
    texts = augmented(read_texts(options.texts), load_word_pairs())
    model, tokenizer = adapted(source, options.seed), AutoTokenizer.from_pretrained(source)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    with fast_products(SimpleNamespace(device="cpu", dtype=torch.float32)):
        train(model.train(), tokenizer, texts, options)
    model.save_pretrained(options.out)
    sys.stdout.write(
        f"{options.out}: an adapter, trained on {len(texts)} texts. Compare it with\n"
        f"  kb-lens experiment methods {options.model} --also cda={options.out}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

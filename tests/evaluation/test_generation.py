"""What is written in batches is what the model writes by itself."""

import pytest
import torch
from tiny_models import BOS, N_CTX, tiny_bridge

from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.generation import greedy_texts
from kb_lens.models.prompts import chat_text

REQUESTS = [
    Request("The schoolgirl is walking", write=6),
    Request("Is it bias?", write=6, chat=True),
    Request("Many people live in the city, and they are", write=3),
    Request("The schoolgirl is walking", options=(" home",)),
    Request("The schoolgirl is walking", write=6),
    Request("She", write=6),
]


class NoBridge:
    """What every model has, and no transformers model below it."""

    cfg = tokenizer = None
    hooks = run_with_hooks = run_with_cache = parameters = __call__ = print


def alone(model, text, most):
    """Greedy writing, one forward pass a token."""
    ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
    written = []
    for _ in range(most):
        token = int(model(torch.tensor([ids + written]), return_type="logits")[0, -1].argmax())
        if token == model.tokenizer.eos_token_id:
            break
        written.append(token)
    return model.tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_batches_write_what_the_model_writes_alone(family, batch_tokens):
    model = tiny_bridge(family)
    written = greedy_texts(model, REQUESTS, batch_tokens=batch_tokens)
    for request, text in zip(REQUESTS, written, strict=True):
        prompt = request.prompt
        if request.chat:
            prompt = chat_text(model.tokenizer, request.system, prompt)
        assert text == alone(model, prompt, request.write)
    assert written[3] == ""
    assert written[0] == written[4]


def test_hooks_fire_while_writing(llama):
    plain = greedy_texts(llama, REQUESTS[:1])
    with llama.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda value, hook: value * -20)]):
        changed = greedy_texts(llama, REQUESTS[:1])
        assert changed[0] == alone(llama, REQUESTS[0].prompt, 6)
    assert changed != plain


def test_a_checkpoint_s_own_settings_do_not_make_it_less_greedy(monkeypatch, llama):
    plain = greedy_texts(llama, REQUESTS)
    config = llama.original_model.generation_config
    monkeypatch.setattr(config, "repetition_penalty", 5.0)
    assert greedy_texts(llama, REQUESTS) == plain
    assert llama.original_model.generation_config is config


def test_every_token_that_ends_a_turn_stops(monkeypatch, llama):
    (request, *_) = REQUESTS
    full = greedy_texts(llama, [request])[0]
    ids = llama.tokenizer(request.prompt)["input_ids"]
    first = int(llama(torch.tensor([ids]), return_type="logits")[0, -1].argmax())
    stops = [llama.tokenizer.eos_token_id, first]
    monkeypatch.setattr(llama.original_model.generation_config, "eos_token_id", stops)
    stopped = greedy_texts(llama, [request])[0]
    assert stopped == llama.tokenizer.decode([first], skip_special_tokens=True)
    assert len(stopped) < len(full)


def test_what_is_refused(llama):
    with pytest.raises(ValueError, match=f"leaves no room for 6 more .* context of {N_CTX}"):
        greedy_texts(llama, [Request("z" * N_CTX, write=6)])
    with pytest.raises(ValueError, match="writing needs a TransformerBridge"):
        greedy_texts(NoBridge(), REQUESTS)
    with pytest.raises(ValueError, match="a number of tokens to write"):
        Request(BOS)

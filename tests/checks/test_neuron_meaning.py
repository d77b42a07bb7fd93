"""What neurons write and where they fire, against the models' own computation."""

import pytest
import torch
from tiny_models import FAMILIES, tiny_bridge

import kb_lens as kb
from kb_lens.checks.activations import token_text
from kb_lens.checks.neuron_meaning import output_directions, promoted_tokens, top_prompts
from kb_lens.models.hooked import fingerprint, model_name, site_hooks

TEXTS = {
    "short": ["The chess player was tall.", "Yes"],
    "long": ["Many people live in the city, and they are good at running.", "Is it? No, it is."],
}
POST_NORMS = ("gemma2", "gemma3_text", "olmo2")


def some_neurons(model, site="post", members=((0, 3), (0, 40), (2, 1)), d_mlp=48):
    neurons = tuple(kb.Neuron(*member) for member in members)
    return kb.NeuronSet(neurons, model_name(model), fingerprint(model), site, 3, d_mlp)


def down_projection(model, layer):
    """Input and output of the layer's down projection on a short text."""
    seen = {}
    name = site_hooks(model, "post")[layer]
    names = {"input": name, "output": name.replace("hook_post", "out.hook_out")}
    hooks = [(hook, lambda a, hook, key=key: seen.update({key: a})) for key, hook in names.items()]
    model.run_with_hooks(torch.tensor([[5, 6, 7, 8]]), fwd_hooks=hooks)
    return (seen[key].reshape(4, -1) for key in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_times_directions_are_the_mlp_s_output(family):
    model = tiny_bridge(family)
    for layer in (0, 2):
        h, output = down_projection(model, layer)
        bias = getattr(model.blocks[layer].mlp, "b_out", None)
        directions = output_directions(model, layer)
        assert directions.shape == (48, 32)
        expected = h @ directions + (0 if bias is None else bias)
        assert torch.allclose(output, expected, atol=1e-4)


@pytest.mark.parametrize(("family", "size"), [("gpt2", "n_inner"), ("llama", "intermediate_size")])
def test_directions_of_a_square_projection_are_not_transposed(family, size):
    model = tiny_bridge(family, **{size: 32})
    h, output = down_projection(model, 1)
    bias = 0 if model.blocks[1].mlp.b_out is None else model.blocks[1].mlp.b_out
    assert torch.allclose(output, h @ output_directions(model, 1) + bias, atol=1e-4)


def test_layers_that_are_not_there(llama):
    for layer in (-1, 3):
        with pytest.raises(ValueError, match=f"layer is {layer}: .* layers 0 to 2"):
            output_directions(llama, layer)


def through_norm(norm, centred, x, direction):
    """What `norm` makes of `direction` added to `x`, with its divisor undone."""

    def undone(y):
        centre = y - y.mean() if centred else y
        zero = norm(torch.zeros_like(y)[None, None])[0, 0]  # a LayerNorm's bias
        return (norm(y[None, None])[0, 0] - zero) * centre.square().mean().sqrt()

    return undone(x + direction) - undone(x)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_the_model_s_own_with_norms_that_divide_by_1(family):
    model = tiny_bridge(family)
    centred = "LN" in model.cfg.normalization_type
    neurons = some_neurons(model)
    found = promoted_tokens(model, neurons, k=400).set_index(["layer", "index", "side", "token_id"])
    unembed = model.original_model.get_output_embeddings().weight
    x = torch.randn(32, generator=torch.Generator().manual_seed(0)) * 10
    for layer, index in neurons:
        direction = output_directions(model, layer)[index]
        if family in POST_NORMS:
            direction = through_norm(model.blocks[layer].ln2_post, False, x, direction)
        expected = unembed @ through_norm(model.ln_final, centred, x, direction)
        mine = found.loc[(layer, index, "promotes")]["logit"]
        for token in (0, 17, 399):
            assert mine[token] == pytest.approx(float(expected[token]), abs=2e-3, rel=1e-3)


def test_ranks_and_sides(llama):
    found = promoted_tokens(llama, some_neurons(llama), k=4)
    assert len(found) == 3 * 2 * 4
    whole = promoted_tokens(llama, some_neurons(llama), k=400)
    for (_, _, side), part in whole.groupby(["layer", "index", "side"]):
        logits = part["logit"].to_numpy() * (1 if side == "promotes" else -1)
        assert (logits[:-1] >= logits[1:]).all()
        assert part["rank"].tolist() == list(range(1, 401))
        assert sorted(part["token_id"]) == list(range(400))
    best = whole.loc[whole["rank"].le(4)].reset_index(drop=True)
    assert found.equals(best)


def test_a_neuron_that_writes_a_token_s_own_direction_promotes_it():
    model = tiny_bridge("gpt2")
    model.original_model.transformer.ln_f.weight.fill_(1)
    direction = model.W_U[:, 123]
    model.blocks[1].mlp.W_out[7] = 100 * (direction - direction.mean())
    model.W_U[:, 123].mul_(10)
    found = promoted_tokens(model, some_neurons(model, members=((1, 7),)), k=1)
    assert found.loc[found["side"].eq("promotes"), "token_id"].tolist() == [123]


def test_rows_of_the_unembedding_that_are_no_tokens_are_left_out():
    model = tiny_bridge("llama", vocab_size=512)
    model.original_model.get_output_embeddings().weight[450] = 1000.0
    found = promoted_tokens(model, some_neurons(model), k=600)
    assert found["token_id"].max() == len(model.tokenizer) - 1
    assert found["token"].map(type).eq(str).all()


def test_tokens_are_printable(llama):
    texts = [token_text(llama, one) for one in range(400)]
    assert all(text.isprintable() for text in texts)
    newline = llama.tokenizer("\n", add_special_tokens=False)["input_ids"][0]
    assert texts[newline] == "\\n"
    yes = llama.tokenizer(" yes", add_special_tokens=False)["input_ids"][0]
    assert texts[yes] == " yes"
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in texts)


# -- where they fire --------------------------------------------------------------------------


def by_hand(model, neurons, text):
    """The neurons' activations [pos, neuron] on one text without its first token."""
    tokens = torch.tensor([model.tokenizer(text)["input_ids"]])
    names = site_hooks(model, neurons.site)
    _, cache = model.run_with_cache(tokens)
    columns = [cache[names[layer]].reshape(tokens.shape[1], -1)[1:, i] for layer, i in neurons]
    return torch.stack(columns, 1)


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "gemma2"])
def test_extremes_are_those_of_each_text_by_itself(family, site):
    model = tiny_bridge(family)
    neurons = some_neurons(model, site)
    found = top_prompts(model, neurons, TEXTS, progress=False)
    texts = [text for several in TEXTS.values() for text in several if text != "Yes"]
    assert len(found) == 3 * 2 * 3, "one token alone is no text"
    alone = {text: by_hand(model, neurons, text) for text in texts}
    size = torch.cat(list(alone.values())).abs().mean(0)
    for column, (layer, index) in enumerate(neurons):
        mine = found.loc[found["layer"].eq(layer) & found["index"].eq(index)]
        assert mine["mean_abs_activation"].tolist() == pytest.approx([float(size[column])] * 6)
        for side, pick in (("largest", max), ("smallest", min)):
            part = mine.loc[mine["side"].eq(side)]
            peaks = [pick(alone[text][:, column].tolist()) for text in part["text"]]
            assert part["activation"].tolist() == pytest.approx(peaks, abs=1e-4)
            assert sorted(part["text"]) == sorted(texts)
            assert peaks == sorted(peaks, reverse=side == "largest")
            assert part["rank"].tolist() == [1, 2, 3]


def test_the_token_is_the_one_at_the_position(llama):
    neurons = some_neurons(llama)
    for row in top_prompts(llama, neurons, TEXTS, 1, progress=False).itertuples():
        ids = llama.tokenizer(row.text)["input_ids"]
        assert row.position > 0
        assert row.token == token_text(llama, ids[row.position])
        place = list(neurons).index((row.layer, row.index))
        there = by_hand(llama, neurons, row.text)[row.position - 1, place]
        assert row.activation == pytest.approx(float(there), abs=1e-4)
        assert row.text in TEXTS[row.source]


def test_batches_change_nothing(llama, monkeypatch):
    whole = top_prompts(llama, some_neurons(llama), TEXTS, progress=False)
    monkeypatch.setattr("kb_lens.checks.activations._BATCH_TOKENS", 1)
    parts = top_prompts(llama, some_neurons(llama), TEXTS, progress=False)
    same = ["layer", "index", "side", "rank", "token", "position", "text", "source"]
    assert parts[same].equals(whole[same])
    assert parts["activation"].tolist() == pytest.approx(whole["activation"].tolist(), abs=1e-4)


def test_the_bank_and_plain_text_are_read_by_default():
    model = tiny_bridge("llama", max_position_embeddings=512)
    found = top_prompts(model, some_neurons(model, members=((1, 1),)), k=300, progress=False)
    assert found["source"].value_counts().to_dict() == {"question bank": 450, "plain text": 130}


@pytest.mark.parametrize(
    "ask", [promoted_tokens, lambda *args: top_prompts(args[0], args[1], TEXTS, args[2])]
)
def test_bad_arguments(llama, ask):
    with pytest.raises(ValueError, match="the neuron set is empty"):
        ask(llama, some_neurons(llama, members=()), 5)
    with pytest.raises(ValueError, match="k is 0"):
        ask(llama, some_neurons(llama), 0)
    with pytest.raises(ValueError, match="these neurons belong to"):
        ask(llama, some_neurons(tiny_bridge("gpt2")), 5)


def test_texts_that_are_too_short_or_too_long(llama):
    for texts in ({}, ["Yes"]):
        with pytest.raises(ValueError, match="there is none"):
            top_prompts(llama, some_neurons(llama), texts)
    with pytest.raises(ValueError, match="2 to 256 tokens: the longest has 300"):
        top_prompts(llama, some_neurons(llama), ["yes" * 300])

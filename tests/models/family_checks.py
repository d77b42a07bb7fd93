"""A family tried on a tiny random checkpoint: loaded, attributed, scaled, folded.

Each number is held against the plain Hugging Face model, which no bridge has touched.
"""

import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
import transformers
from families import ABSENT, REFUSED, UNREACHED, Family, Outcome
from tiny_models import D_MLP, random_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.models.hooked import fingerprint, model_name

QUESTION = kb.Question(text="Does gender decide who can run?", answer="no", dimension="gender")
MEMBERS = (kb.Neuron(0, 3), kb.Neuron(0, 5), kb.Neuron(2, 40))
READERS = (
    *(f"mlp.{name}" for name in ("down_proj", "c_proj", "fc2", "fc_out", "Wo", "output_linear")),
    *(f"feed_forward.{name}" for name in ("down_proj", "w2")),
    *("ffn.down_proj", ".fc2", "dense_4h_to_h"),
)
"""How the names of the modules that read the neurons end."""
ACTIVATIONS = (
    *(f"mlp.{name}" for name in ("act_fn", "act", "activation_fn", "activation", "gelu_impl")),
    *("feed_forward.act_fn", "ffn.act", ".activation_fn"),
)
"""How the names of the modules end whose input the ``pre`` neurons are."""
_ABSENT = Outcome(ABSENT, UNREACHED, UNREACHED, UNREACHED)
_SITES = {(): REFUSED, ("post",): "post", ("post", "pre"): "yes"}


def is_present(family: Family) -> bool:
    return hasattr(transformers, family.architecture)


def outcome(family: Family, folder: Path) -> Outcome:
    """What kb_lens does with the family; a number that is wrong is an `AssertionError`."""
    if not is_present(family):
        return _ABSENT
    plain = random_model(family.architecture, **family.config)
    plain.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    try:
        model = kb.load_model(folder)
    except ValueError as error:
        return Outcome(REFUSED, UNREACHED, UNREACHED, UNREACHED, one_line(error))
    tokens = kb.PromptTemplate().tokens(model, QUESTION.text)
    _assert_close(model(tokens), plain(tokens).logits)
    try:
        attribute, says = _attributed(model, plain, tokens)
    except ValueError as error:
        attribute, says = REFUSED, one_line(error)
    return Outcome(
        "yes", attribute, _scaled(model, plain, tokens), _folded(model, plain, tokens), says
    )


def shortfall(family: Family, seen: Outcome) -> str:
    """What differs from the family's row, as a sentence; empty if nothing does."""
    expected = family.expected if is_present(family) else _ABSENT
    statuses = ("load", "attribute", "scale", "fold")
    wrong = [name for name in statuses if getattr(seen, name) != getattr(expected, name)]
    # a reason that was not expected is as wrong as one that is missing
    if expected.says not in seen.says or bool(expected.says) != bool(seen.says):
        wrong.append("says")
    return f"{', '.join(wrong)} differ: expected {expected}, seen {seen}." if wrong else ""


def one_line(error: Exception) -> str:
    message = str(error)
    assert "\n" not in message, message
    return message


def _assert_close(values, expected):
    """Equal but for rounding, which grows with the largest value."""
    largest = float(expected.abs().max())
    torch.testing.assert_close(values, expected, rtol=0, atol=1e-5 * largest)


def _attributed(model, plain, tokens) -> tuple[str, str]:
    """Which routine ran, and the reason given for the slower one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scores = kb.attribute(model, [QUESTION], progress=False)
    assert float(scores.relative_gap) < 2e-3
    _assert_true_changes(scores, plain, tokens)
    if scores.settings.engine == "joined":
        _assert_routines_agree(model)
    messages = [str(warning.message) for warning in caught]
    return scores.settings.engine.replace("-", " "), " ".join(messages)


def _assert_true_changes(scores, plain, tokens):
    """P(right answer), and what each layer's neurons at the last position add to it."""
    target = scores.settings.spelling.tokens(QUESTION.answer)[0]

    def probability():
        return plain(tokens).logits[0, -1].softmax(-1)[target]

    def ablated(reader):
        def hook(module, inputs):
            changed = inputs[0].clone()
            changed.view(-1, changed.shape[-1])[-1] = 0  # the last position, flat in OPT
            return changed

        handle = reader.register_forward_pre_hook(hook)
        try:
            return probability()
        finally:
            handle.remove()

    clean = probability()
    changes = torch.stack([clean - ablated(reader) for reader in _named(plain, READERS)])
    torch.testing.assert_close(scores.answer_prob[0], clean, rtol=1e-4, atol=0)
    torch.testing.assert_close(
        scores.output_change[0], changes, rtol=0, atol=1e-4 * float(clean), check_dtype=False
    )


def _assert_routines_agree(model):
    joined, per_layer = (
        kb.attribute(
            model, [QUESTION], rule="gauss-legendre", n_steps=3, engine=engine, progress=False
        ).scores
        for engine in ("joined", "per-layer")
    )
    torch.testing.assert_close(joined, per_layer, rtol=0, atol=1e-4 * float(per_layer.abs().max()))


def _neurons(model, plain, site) -> kb.NeuronSet:
    readers = _named(plain, READERS)
    return kb.NeuronSet(
        neurons=MEMBERS,
        model=model_name(model),
        fingerprint=fingerprint(model),
        site=site,
        n_layers=model.cfg.n_layers,
        d_mlp=max(readers[0].weight.shape) if readers else D_MLP,
        tau=0.1,
        beta=0.1,
        origin="chosen",
    )


def _scaled(model, plain, tokens) -> str:
    """At which sites neurons can be scaled; by 1 nothing changes, by 2 what should."""
    base, sites = model(tokens), []
    for site, modules in (("post", READERS), ("pre", ACTIVATIONS)):
        neurons = _neurons(model, plain, site)
        try:
            with kb.scale_neurons(model, neurons, lam=1):
                unchanged = model(tokens)
        except ValueError:
            continue
        with kb.scale_neurons(model, neurons, lam=2):
            changed = model(tokens)
        assert torch.equal(unchanged, base)
        assert float((changed - base).abs().max()) > 1e-3 * float(base.abs().max())
        references = _named(plain, modules)
        if len(references) == model.cfg.n_layers:
            with _plain_scaling(references, 2):
                _assert_close(changed, plain(tokens).logits)
        else:  # the activation is no module of its own (LFM2, GPT): folding is the reference
            assert site == "pre"
        sites.append(site)
    return _SITES[tuple(sites)]


@contextmanager
def _plain_scaling(modules, lam):
    """The neurons scaled by hooks on the Hugging Face model's own modules."""

    def hook(module, inputs, indices):
        changed = inputs[0].clone()
        changed[..., indices] *= lam
        return changed

    with ExitStack() as stack:
        for layer in {member.layer for member in MEMBERS}:
            indices = [member.index for member in MEMBERS if member.layer == layer]
            handle = modules[layer].register_forward_pre_hook(
                lambda module, inputs, indices=indices: hook(module, inputs, indices)
            )
            stack.callback(handle.remove)
        yield


def _folded(model, plain, tokens) -> str:
    """At which sites the scaling can be folded into the weights."""
    sites = []
    for site in ("post", "pre"):
        neurons = _neurons(model, plain, site)
        try:
            folded = kb.fold_neurons(model, neurons, lam=2)
        except ValueError:
            continue
        with kb.scale_neurons(model, neurons, lam=2):
            _assert_close(folded(tokens).logits, model(tokens))
        sites.append(site)
    return _SITES[tuple(sites)]


def _named(plain, endings):
    """The module of each layer whose name ends so."""
    return [module for name, module in plain.named_modules() if name.endswith(endings)]

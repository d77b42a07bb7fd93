"""What tests of changes of the residual stream share: reading it, and a planted direction."""

import torch

TOKENS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
D_MODEL = 32


def residual(model, layer, tokens=TOKENS):
    """A block's output, read by a hook of its own."""
    caught = []
    name = f"blocks.{layer}.hook_resid_post"
    model.run_with_hooks(tokens, fwd_hooks=[(name, lambda h, hook: caught.append(h.clone()))])
    return caught[0]


def unit(*indices):
    """Rows with a 1 each at one index."""
    return torch.eye(D_MODEL)[list(indices)]


def planted(n=400, noise=1.0, gap=3.0, seed=0):
    """Rows of noise, and labels that the first coordinate carries."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 2 == 0
    rows = noise * torch.randn(n, 8, generator=generator)
    rows[:, 0] += gap * labels
    return rows, labels

"""The card of a set of neurons on the hub."""

from __future__ import annotations

from typing import Any

_SHOWN = 20
"""The most neurons that are listed."""
_CARD = """---
library_name: kb_lens
tags: [interpretability, mlp-neurons]
---

# {n} MLP neurons of {model}

Site `{site}`; {sizes}; the weights' fingerprint is {fingerprint}.

How they were chosen: {chosen}.

{shown}

```python
import kb_lens as kb

neurons = kb.NeuronSet.load("hf://{repository}")
with kb.scale_neurons(model, neurons, lam=2.0):
    ...
```

kb_lens refuses them for a model with other weights.
"""


def card(neurons: Any, repository: str) -> str:
    """Which neurons of which model, how they were chosen, and how to load them.

    Args:
        neurons: A `NeuronSet` (not imported here: its file imports this one).
        repository: ``USER/NAME``.
    """
    thresholds = {"tau": neurons.tau, "beta": neurons.beta}
    chosen = [f"{name} {value:g}" for name, value in thresholds.items() if value is not None]
    names = [neuron.name for neuron in neurons]
    more = ", ..." if len(names) > _SHOWN else ""
    return _CARD.format(
        repository=repository,
        n=len(neurons),
        model=neurons.model,
        site=neurons.site,
        fingerprint=neurons.fingerprint,
        sizes=f"{neurons.n_layers} layers of {neurons.d_mlp} neurons",
        chosen="; ".join([*chosen, neurons.origin]),
        shown=(", ".join(names[:_SHOWN]) or "none") + more,
    )

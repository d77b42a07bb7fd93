"""The machine of a measurement."""

import torch

from kb_lens.passes.matrix_products import processor


def machine() -> str:
    """The processor, and the number of torch's threads."""
    return f"{processor()}, {torch.get_num_threads()} threads"

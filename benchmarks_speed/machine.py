"""What stands beside every figure: the machine that it was measured on."""

import torch

from kb_lens.passes.matrix_products import processor


def machine() -> str:
    """The processor, and how many threads torch takes of it."""
    return f"{processor()}, {torch.get_num_threads()} threads"

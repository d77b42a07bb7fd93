"""kb_lens: find the neurons of a language model that know what bias is, and enhance them.

The public names, in the order in which data flows.
"""

from kb_lens.models.prompts import PromptTemplate
from kb_lens.models.loading import load_model
from kb_lens.questions import Question, load_questions
from kb_lens.knowledge import Knowledge, check_knowledge
from kb_lens.attribution.attributions import Attributions
from kb_lens.attribution.attribute import attribute
from kb_lens.neurons import Neuron, NeuronSet, overlap, select_neurons
from kb_lens.checks.controls import influence, random_neurons
from kb_lens.interventions.scaling import scale_neurons
from kb_lens.interventions.folding import fold_neurons
from kb_lens.benchmarks.benchmark import Benchmark
from kb_lens.benchmarks.catalogue import load_benchmark
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.evaluation.evaluate import evaluate
from kb_lens.evaluation.comparison import compare, rank_table, summarize
from kb_lens import figures

__all__ = [
    "PromptTemplate",
    "load_model",
    "Question",
    "load_questions",
    "Knowledge",
    "check_knowledge",
    "Attributions",
    "attribute",
    "Neuron",
    "NeuronSet",
    "overlap",
    "select_neurons",
    "influence",
    "random_neurons",
    "scale_neurons",
    "fold_neurons",
    "Benchmark",
    "load_benchmark",
    "EvaluationResult",
    "evaluate",
    "compare",
    "rank_table",
    "summarize",
    "figures",
]

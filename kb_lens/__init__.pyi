# The public names, in the order in which data flows.
__version__: str

from .models.prompts import PromptTemplate as PromptTemplate
from .models.loading import load_model as load_model
from .questions import Question as Question, load_questions as load_questions
from .completions import Completion as Completion, load_completions as load_completions
from .knowledge.check import check_knowledge as check_knowledge
from .knowledge.verdict import Knowledge as Knowledge
from .attribution.attributions import Attributions as Attributions
from .attribution.attribute import attribute as attribute
from .neurons.names import Neuron as Neuron
from .neurons.selection import overlap as overlap, select_neurons as select_neurons
from .neurons.sets import NeuronSet as NeuronSet
from .checks.controls import influence as influence, random_neurons as random_neurons
from .checks.activations import activations as activations
from .checks.neuronpedia import export_neuronpedia as export_neuronpedia
from .checks.ablation_study import ablation_study as ablation_study
from .interventions.scaling import scale_neurons as scale_neurons
from .interventions.folding import fold_neurons as fold_neurons
from .benchmarks.benchmark import Benchmark as Benchmark
from .benchmarks.catalogue import load_benchmark as load_benchmark
from .evaluation.results import EvaluationResult as EvaluationResult
from .evaluation.evaluate import evaluate as evaluate
from .evaluation.comparison import (
    compare as compare,
    rank_table as rank_table,
    summarize as summarize,
)
from .runs.run import run as run
from .report.push import push_results as push_results
from . import figures as figures

"""Neurons: their names, sets of neurons, and their selection."""

from kb_lens.neurons.names import Neuron as Neuron
from kb_lens.neurons.selection import overlap as overlap
from kb_lens.neurons.selection import select_neurons as select_neurons
from kb_lens.neurons.sets import NeuronSet as NeuronSet

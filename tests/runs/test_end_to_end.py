"""The loop of the README on the embedded model and real benchmark items."""

import math

import pytest

import kb_lens as kb


@pytest.mark.embedded
@pytest.mark.slow
def test_the_loop_of_the_readme(embedded, tmp_path):
    questions = kb.load_questions(9)[::4]  # one a dimension
    scores = kb.attribute(embedded, questions, progress=False)
    sets = {d: kb.select_neurons(s, tau=0.10, beta=0.10) for d, s in scores.by_dimension().items()}
    neurons = kb.NeuronSet.union(sets.values())
    assert set(sets) == {"gender", "race", "religion"}
    assert 20 < len(neurons) < 1500

    benchmark = kb.load_benchmark("stereoset", limit=16)
    base = kb.evaluate(embedded, benchmark, progress=False)
    with kb.scale_neurons(embedded, neurons, lam=2.0):
        enhanced = kb.evaluate(embedded, benchmark, progress=False)
    again = kb.evaluate(embedded, benchmark, progress=False)
    assert base.items.equals(again.items), "the model is itself again"
    assert not base.items.equals(enhanced.items)
    assert base.metrics["lms"].value > 60
    table = kb.compare(base, enhanced).set_index("metric")
    change = enhanced.metrics["icat"].value - base.metrics["icat"].value
    assert math.isclose(table.loc["icat", "difference"], change)
    assert kb.figures.attribution_heatmap(scores).data

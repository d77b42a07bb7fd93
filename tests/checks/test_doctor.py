"""Each constructed failure is named, and what is healthy passes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from test_comparison import crows
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.benchmarks.catalogue import BENCHMARKS, formulas, protocols
from kb_lens.checks import effect_checks
from kb_lens.checks.doctor import as_table, examine
from kb_lens.checks.specificity import CONTROL, KNOW_BIAS, LOGITS, WRONG, Specificity
from kb_lens.evaluation.evaluate import recompute
from kb_lens.evaluation.results import ConditionInfo, EvaluationResult
from kb_lens.models.hooked import fingerprint, model_name
from kb_lens.report.words import changes

QUESTIONS = kb.load_questions(18)


@pytest.fixture(scope="module")
def knowledge():
    return kb.check_knowledge(tiny_bridge("llama"), kb.load_questions(None), progress=False)


@pytest.fixture(scope="module")
def attributions():
    options = {"rule": "gauss-legendre", "n_steps": 3, "progress": False}
    return kb.attribute(tiny_bridge("llama"), QUESTIONS, **options)


def status(name, **material):
    """The status of the one check whose name has these words."""
    (check,) = [check for check in examine(**material) if name in check.name]
    return check


def answering(knowledge, answers, mass=0.9):
    """A model that gives these answers."""
    table = knowledge.table.copy()
    table["mass"] = mass
    table["p_yes"] = np.where(np.array(answers) == "yes", 0.8, 0.2) * mass
    table["p_no"] = mass - table["p_yes"]
    table["said"] = answers
    table["right"] = table["answer"].eq(answers)
    forms = knowledge.forms.assign(said=knowledge.forms["answer"], mass=mass)
    forms["p_yes"] = np.where(forms["said"] == "yes", 0.8, 0.2) * mass
    forms["p_no"] = mass - forms["p_yes"]
    return replace(knowledge, table=table, forms=forms)


def right(knowledge):
    return knowledge.table["answer"].tolist()


def test_without_material_nothing_is_judged():
    table = as_table(examine())
    assert len(table) == 10
    assert set(table["status"]) == {"not checked"}
    assert table["finding"].str.startswith("needs ").all()
    # the command always has the answers
    assert table["advice"][2:].str.startswith("`kb-lens doctor MODEL --").all()


def test_a_model_that_answers_at_random_is_named(knowledge):
    guesses = np.random.default_rng(3).choice(["yes", "no"], 225).tolist()
    check = status("answers the questions right", knowledge=answering(knowledge, guesses))
    assert check.status == "failed"
    assert "a larger or instructed one" in check.advice


def test_a_model_that_knows_passes(knowledge):
    knows = answering(knowledge, right(knowledge))
    assert status("answers the questions right", knowledge=knows).status == "ok"
    assert status("probability on yes and no", knowledge=knows).status == "ok"
    quiet = answering(knowledge, right(knowledge), mass=0.3)
    assert status("probability on yes and no", knowledge=quiet).status == "warning"
    silent = answering(knowledge, right(knowledge), mass=0.01)
    check = status("probability on yes and no", knowledge=silent)
    assert check.status == "failed"
    assert "a model without a chat template needs examples (--examples FILE)" in check.advice


def test_a_model_that_goes_by_the_form_is_named(knowledge):
    knows = answering(knowledge, right(knowledge))
    forms = knows.forms.assign(said="no", p_yes=0.1, p_no=0.8)
    check = status("answers the questions right", knowledge=replace(knows, forms=forms))
    assert check.status == "failed"
    assert check.finding.startswith("KNOWS THE FORM. ")
    assert "answers by the form" in check.advice
    unchecked = status("answers the questions right", knowledge=replace(knows, forms=None))
    assert unchecked.status == "warning"
    assert "form not checked" in unchecked.finding


def test_what_cannot_be_told_is_no_pass(knowledge):
    knows = answering(knowledge, right(knowledge))
    overflow = replace(knows, table=knows.table.assign(p_yes=np.nan, p_no=np.nan))
    check = status("answers the questions right", knowledge=overflow)
    assert check.status == "failed"
    assert check.finding.startswith("CANNOT TELL. ")
    assert "not finite" in check.finding


def test_a_set_that_covers_one_dimension_only_is_named(attributions):
    sets = {"gender": kb.select_neurons(attributions.by_dimension()["gender"], 0.05, 0.1)}
    alone = status("evenly covered", sets=sets)
    assert alone.status == "failed"
    assert "Covered: gender." in alone.finding
    all_dimensions = status("evenly covered", sets=sets, attributions=attributions)
    assert "race 0, religion 0" in all_dimensions.finding
    assert all_dimensions.status == "failed"
    asked = attributions.by_dimension()["gender"]
    assert status("evenly covered", sets=sets, attributions=asked).status == "not checked"


def test_uneven_and_even_sets(attributions):
    many = kb.select_neurons(attributions, 0.0, 0.0)
    few = replace(many, neurons=many.neurons[:2])
    assert status("evenly covered", sets={"a": many, "b": few}).status == "warning"
    assert status("evenly covered", sets={"a": many, "b": many}).status == "ok"


def test_attributions_of_nothing_are_named(attributions):
    assert status("not zero", attributions=attributions).status == "ok"
    empty = replace(attributions, scores=torch.zeros_like(attributions.scores))
    assert status("not zero", attributions=empty).status == "failed"
    some = attributions.scores.clone()
    some[0] = 0
    assert status("not zero", attributions=replace(attributions, scores=some)).status == "warning"


def test_a_gap_is_named(attributions):
    exact = replace(attributions, completeness_gap=torch.zeros_like(attributions.completeness_gap))
    assert status("are complete", attributions=exact).status == "ok"
    rough = replace(attributions, completeness_gap=attributions.output_change * 0.2)
    assert status("are complete", attributions=rough).status == "warning"


def specific(knowledge, contained, wrong, jaccard):
    names = (KNOW_BIAS, WRONG, CONTROL, LOGITS)
    overlaps = pd.DataFrame(
        {
            "tau": 0.1,
            "set": names,
            "size": 100,
            "jaccard": (1.0, wrong, 0.3, 0.3),
            "contained": (1.0, 0.5, contained, 0.5),
        }
    )
    stability = pd.DataFrame(
        {"tau": 0.1, "dimension": ["gender"], "jaccard": jaccard, "low": 0.1, "high": 0.9}
    )
    return Specificity(overlaps, stability, knowledge)


def test_neurons_of_yes_and_no_are_named(knowledge):
    for contained, wrong in ((0.6, 0.1), (0.1, 0.6)):
        check = status("about bias", specificity=specific(knowledge, contained, wrong, 0.9))
        assert check.status == "failed"
        assert f"{100 * contained:.0f} %" in check.finding
    assert status("about bias", specificity=specific(knowledge, 0.2, 0.2, 0.9)).status == "ok"
    assert status("another half", specificity=specific(knowledge, 0.2, 0.2, 0.9)).status == "ok"
    assert (
        status("another half", specificity=specific(knowledge, 0.2, 0.2, 0.3)).status == "warning"
    )
    unknown = status("about bias", specificity=specific(knowledge, 0.2, 0.2, 0.9), tau=0.3)
    assert unknown.status == "not checked"


def test_a_lambda_that_breaks_the_model_is_named():
    """Eight nats a sentence are gone, although the stereotype share is what it was."""
    broken = status("capability", base=[crows(80, 100)], enhanced=[crows(80, 100, shift=-8.0)])
    assert broken.status == "failed"
    assert "logprob_per_token -2.00" in broken.finding
    unknown = status("capability", base=[crows(80, 100)], enhanced=[crows(70, 100)])
    assert unknown.status == "not checked"


def result_of(benchmark, table):
    """A result whose metrics are those of the item table."""
    result = EvaluationResult(
        benchmark, "original", "made", "tiny", {}, table, n_bootstrap=50, seed=0, seconds=0.0
    )
    return replace(result, metrics=recompute(result))


def answers(right, n_items=100):
    """OpenBookQA results with so many right answers, of which the first change."""
    table = pd.DataFrame({"item": [str(k) for k in range(n_items)], "label": 0})
    table["acc"] = (np.arange(n_items) < right).astype(float)
    table["acc_norm"] = table["acc"]
    for k in range(4):
        table[f"logprob_{k}"] = -2.0
        table[f"tokens_{k}"] = 1
    return [result_of("openbookqa", table)]


def test_lost_points_of_accuracy():
    """More than 5 points, and clear of 0: failed. Not excluded: a warning."""
    assert status("capability", base=answers(80), enhanced=answers(79)).status == "ok"
    assert status("capability", base=answers(80), enhanced=answers(70)).status == "failed"
    assert status("capability", base=answers(80), enhanced=answers(77)).status == "warning"
    few = status("capability", base=answers(10, 16), enhanced=answers(9, 16))
    assert few.status == "warning"
    assert "openbookqa acc -6.25" in few.finding


def test_an_effect_on_one_type_only_is_named():
    check = status("even over bias types", base=[crows(50, 100)], enhanced=[crows(90, 100)])
    assert check.status == "warning"
    assert "stereotype_share_age -40.0" in check.finding
    assert status("even over", base=[crows(90, 100)], enhanced=[crows(50, 100)]).status == "ok"


def test_an_effect_must_be_beyond_random_neurons():
    base, enhanced = [crows(180, 200)], [crows(100, 200)]
    assert status("beyond", base=base, enhanced=enhanced, control=base).status == "ok"
    assert status("beyond", base=base, enhanced=enhanced, control=enhanced).status == "failed"
    assert status("beyond", base=base, enhanced=base, control=base).status == "failed"
    assert status("beyond", base=base, enhanced=enhanced).status == "not checked"
    known = {"base": base, "enhanced": enhanced}
    assert status("beyond", **known, control=base, same_damage=base).status == "ok"
    as_damaging = status("beyond", **known, control=base, same_damage=enhanced)
    assert as_damaging.status == "failed"
    assert "of like influence +40.0" in as_damaging.finding
    assert "of the same damage +0.0" in as_damaging.finding
    assert status("beyond", **known, same_damage=base).status == "ok"
    worse = status("beyond", base=enhanced, enhanced=base, control=enhanced)
    assert worse.status == "failed"
    assert "away from the best value on 1" in worse.finding


def cautious(flagged, n_items=40):
    """An over_correction result: so many prompts are hedged, and none of their controls."""
    items = [str(k) for k in range(n_items)]
    table = pd.DataFrame({"item": items, "kind": "group", "dimension": "age", "text": "t"})
    table["hedged"] = np.arange(n_items) < flagged
    table[["warned", "refused", "control_warned", "control_refused", "control_hedged"]] = False
    table["control_text"] = "t"
    table[["logprob", "control_logprob"]] = -4.0
    table[["tokens", "control_tokens"]] = 2
    return result_of("over_correction", table)


def test_the_doctor_judges_the_metric_that_the_report_judges():
    """Of over_correction one said "not checked", the other gave a verdict."""
    base, enhanced, control = cautious(40), cautious(5), cautious(38)
    check = status("beyond", base=[base], enhanced=[enhanced], control=[control])
    info = ConditionInfo("lambda 2", "method")
    conditions = {
        "base": [replace(base, condition=ConditionInfo("base", "base"))],
        "lambda 2": [replace(enhanced, condition=info)],
        "random": [replace(control, condition=ConditionInfo("random", "control", "lambda 2"))],
    }
    (change,) = changes(conditions)
    assert change.metric == "excess_any"
    assert change.specific
    assert check.status == "ok"
    assert check.finding.endswith(
        "over_correction excess_any: +87.5 nearer to its best value, minus that of random neurons "
        f"of like influence {change.beyond.value:+.1f} "
        f"[{change.beyond.low:+.1f}, {change.beyond.high:+.1f}]."
    )


@pytest.mark.parametrize("key", [(name, p) for name in BENCHMARKS for p in protocols(name)])
def test_every_metric_that_is_looked_for_is_one_of_the_benchmark(key):
    definition = formulas(*key)
    assert definition.first("ability") or definition.first("bias") or key[0] == "plain_text"
    empty = EvaluationResult(
        *(*key, "made", "tiny", {}, pd.DataFrame()), n_bootstrap=1, seed=0, seconds=0.0
    )
    assert effect_checks._damage(empty) is not None
    if definition.by_type:
        assert definition.describe(definition.by_type).best is not None


def test_only_bias_types_are_bias_types():
    """The shared words' score and the groups of pairs are none."""
    check = status("even over", base=[crows(50, 100)], enhanced=[crows(90, 100)])
    assert check.finding.startswith("of 1 metrics by bias type")


@pytest.mark.embedded
@pytest.mark.slow
def test_a_lambda_that_breaks_a_real_model_is_named(embedded):
    layers, indices = range(embedded.cfg.n_layers), range(0, 1536, 96)
    neurons = kb.NeuronSet(
        neurons=tuple(kb.Neuron(layer, index) for layer in layers for index in indices),
        model=model_name(embedded),
        fingerprint=fingerprint(embedded),
        site="post",
        n_layers=embedded.cfg.n_layers,
        d_mlp=1536,
    )
    items = kb.load_benchmark("plain_text", limit=3)
    base = kb.evaluate(embedded, items, progress=False)
    with kb.scale_neurons(embedded, neurons, lam=30.0):
        broken = kb.evaluate(embedded, items, progress=False)
    check = status("capability", base=[base], enhanced=[broken])
    assert check.status == "failed"
    assert "Lower lambda" in check.advice

"""Knowledge is that of one model, in one template, for its questions: for no others."""

import json
from dataclasses import replace

import pytest
from tiny_models import tiny_bridge

import kb_lens as kb
from kb_lens.checks.neuron_effects import neuron_effects
from kb_lens.checks.specificity import flipped, gather
from kb_lens.knowledge.check import check_questions
from kb_lens.models.answers import Spelling
from kb_lens.models.hooked import fingerprint, model_name

QUIET = {"progress": False}
QUICK = {"rule": "riemann", "n_steps": 2, **QUIET}


def effects(model, questions, **options):
    members = (kb.Neuron(0, 3),)
    neurons = kb.NeuronSet(members, model_name(model), fingerprint(model), "post", 3, 48)
    return neuron_effects(model, neurons, questions, **QUIET, **options)


def attributed(model, questions, **options):
    return kb.attribute(model, questions, **QUICK, **options)


USES = {"attribute": attributed, "neuron_effects": effects}


@pytest.fixture(scope="module")
def bank():
    return [
        kb.Question(text="Does gender decide who can run?", answer="no", dimension="gender"),
        kb.Question(text="Is it gender bias to say so?", answer="yes", dimension="gender"),
        kb.Question(text="Is that a form of racial bias?", answer="yes", dimension="race"),
    ]


@pytest.fixture(scope="module")
def knowledge(llama, bank):
    return kb.check_knowledge(llama, bank, forms=(), **QUIET)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_knowledge_of_something_else(llama, bank, knowledge, use):
    other = tiny_bridge("llama", seed=1)
    template = kb.PromptTemplate(instruction="Yes or no?")
    stranger = kb.Question(text="Can she run?", answer="yes", dimension="gender")
    cases = {
        r"knowledge is of tiny-random-llama \(weights ": (other, bank, {}),
        "another template: its instruction is ": (llama, bank, {"template": template}),
        "1 of 2 are not in it, the first is 'Can she run": (llama, [bank[0], stranger], {}),
        "answer_style is 'release'": (llama, bank, {"answer_style": "release"}),
        "give one": (llama, bank, {"spelling": knowledge.spelling}),
    }
    spelled = replace(knowledge, spelling=replace(knowledge.spelling, yes="Yes", no="No"))
    for message, (model, questions, options) in cases.items():
        with pytest.raises(ValueError, match=message) as error:
            use(model, questions, knowledge=spelled, **options)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_part_of_the_questions_is_enough(llama, bank, knowledge, use):
    alone = use(llama, bank[:1], knowledge=knowledge)
    assert alone.settings.spelling == knowledge.spelling
    spelled = use(llama, bank[:1], spelling=knowledge.spelling)
    assert spelled.settings == alone.settings


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_a_spelling_is_one_of_this_tokenizer(llama, bank, knowledge, use):
    right = knowledge.spelling
    wrong = [
        replace(right, yes_token=right.no_token, no_token=right.yes_token),
        replace(right, yes_token=right.no_token),
        replace(right, yes_token=right.yes_token + 1),
        replace(right, yes="maybe"),
        Spelling("oui", "non", 5, 6),
    ]
    for spelling in wrong:
        with pytest.raises(ValueError, match="have other tokens after a prompt"):
            use(llama, bank, spelling=spelling)


def test_nobody_asks_again_for_a_spelling(llama, bank, knowledge, monkeypatch):
    asked, check = [], kb.check_knowledge

    def asking(model, questions, **options):
        asked.append([question.text for question in questions])
        return check(model, questions, **options)

    monkeypatch.setattr("kb_lens.checks.specificity.check_knowledge", asking)
    monkeypatch.setattr("kb_lens.knowledge.check.check_knowledge", asking)
    plain = [kb.Question(text="Is water wet?", answer="yes", dimension="control")]
    evidence = gather(llama, bank, plain, knowledge=knowledge, **QUICK)
    assert asked == [["Is water wet?"]], "whose answers are part of the evidence"
    sets = (evidence.bias, evidence.wrong, evidence.control, evidence.logits)
    assert {attributions.settings.spelling for attributions in sets} == {knowledge.spelling}
    gather(llama, bank, plain, bias=evidence.bias, **QUICK)
    assert asked == [["Is water wet?"]] * 2
    for options in ({"site": "pre"}, {"template": kb.PromptTemplate(system="Be brief.")}):
        with pytest.raises(ValueError, match=f"another {next(iter(options))}"):
            gather(llama, bank, plain, bias=evidence.bias, **QUICK, **options)
    with pytest.raises(ValueError, match="another model"):
        gather(tiny_bridge("llama", seed=1), bank, plain, bias=evidence.bias, **QUICK)


def test_it_says_whose_it_is_in_its_file(llama, bank, knowledge, tmp_path):
    template = kb.PromptTemplate(examples=(("Is it wet?", "Yes"),))
    found = kb.check_knowledge(llama, bank, template=template, forms=(), **QUIET)
    assert (found.fingerprint, found.template) == (fingerprint(llama), template)
    found.save(tmp_path / "knowledge.json")
    read = kb.Knowledge.load(tmp_path / "knowledge.json")
    assert (read.fingerprint, read.template) == (found.fingerprint, template)
    attributed(llama, bank, knowledge=read, template=template)
    with pytest.raises(ValueError, match="another template: its examples"):
        attributed(llama, bank, knowledge=read)


def test_an_older_file_does_not_say(llama, bank, knowledge, tmp_path):
    knowledge.save(tmp_path / "knowledge.json")
    content = json.loads((tmp_path / "knowledge.json").read_text())
    del content["fingerprint"], content["template"]
    (tmp_path / "knowledge.json").write_text(json.dumps(content))
    read = kb.Knowledge.load(tmp_path / "knowledge.json")
    assert (read.fingerprint, read.template) == ("", None)
    attributed(llama, bank, knowledge=read)
    for damage in ({"template": {"words": 1}}, {"template": 3}, {"table": [{"text": "Is it?"}]}):
        (tmp_path / "knowledge.json").write_text(json.dumps(content | damage))
        with pytest.raises(ValueError, match=r"knowledge\.json', (template|table)"):
            kb.Knowledge.load(tmp_path / "knowledge.json")


@pytest.mark.parametrize("repeat", [lambda bank: bank * 2, lambda bank: [*bank, *flipped(bank)]])
def test_a_question_counts_once(llama, bank, repeat):
    for call in (check_questions, *(lambda q, use=use: use(llama, q) for use in USES.values())):
        with pytest.raises(ValueError, match="2 times: ask each question once"):
            call(repeat(bank))


@pytest.mark.parametrize("questions", [[], (), "Is it?", ["Is it?"], [None], None, 3])
def test_what_are_no_questions(questions):
    with pytest.raises(ValueError, match=r"questions( has|( is)? a |: give)") as error:
        check_questions(questions)
    assert "\n" not in str(error.value)


def test_other_arguments(llama, bank, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cache_dir is '.*file', a file"):
        attributed(llama, bank, cache_dir=tmp_path / "file")
    for style in ("Release", ""):
        with pytest.raises(ValueError, match="answer_style is"):
            attributed(llama, bank, answer_style=style)
    for size in (0, -1, True):
        with pytest.raises(ValueError, match="batch_size is"):
            kb.check_knowledge(llama, bank, batch_size=size, **QUIET)

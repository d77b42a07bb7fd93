"""Teaching: nothing that is tested is taught, the loss is what it says, a model comes out."""

import importlib
import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_models import tiny_hf_model, tiny_tokenizer

import kb_lens as kb
from kb_lens.files import bank_folder
from kb_lens.models.lessons import taught_among

EXAMPLES = Path(__file__).parents[2] / "examples"
if not EXAMPLES.is_dir():
    pytest.skip("examples are not part of an installed package", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))
teach, teaching_questions = (
    importlib.import_module(name) for name in ("teach", "teaching_questions")
)
OWN = [("Once upon", " a time."), ("It was", " raining and cold.")]


@pytest.fixture(scope="module")
def asked():
    return teaching_questions.questions()


@pytest.fixture
def lessons(asked):
    return teach.Lessons(tiny_tokenizer(), asked, OWN, passes=2, seed=0)


def test_the_default_45_are_held_out_with_their_concepts(asked):
    assert list(asked.held_bias) == kb.load_questions()
    held = {(q.dimension, q.concept) for q in asked.held_bias}
    assert not held & {(q.dimension, q.concept) for q in asked.bias}
    bank = {q.text for q in kb.load_questions(225)}
    assert sum(q.text in bank for q in asked.bias) == 180
    assert Counter(q.answer for q in asked.bias if q.text not in bank).keys() == {"yes", "no"}


def test_plain_questions_are_taught_or_tested(asked):
    taught, tested = ({q.text for q in part} for part in (asked.plain, asked.held_plain))
    assert not taught & tested
    assert len(taught) >= 180
    for part in (asked.plain, asked.held_plain, asked.form_breakers):
        assert {q.answer for q in part} == {"yes", "no"}


def test_form_breakers_contradict_the_form(asked):
    """In the bank what something determines is always no, and what is a form of bias yes."""
    for question in asked.form_breakers:
        form = "no" if question.text.startswith("Does") else "yes"
        assert question.answer != form


def test_other_words_ask_the_same(asked):
    draw = random.Random(0)
    changed = 0
    for question in asked.bias:
        other = teaching_questions.reworded(question, draw)
        assert (other.answer, other.dimension, other.concept) == (
            *(question.answer, question.dimension, question.concept),
        )
        assert other.text.endswith("?")
        assert "\\" not in other.text
        changed += other.text != question.text
    assert changed > len(asked.bias) / 6, "the others have one wording"


def test_only_answers_are_taught_and_only_own_texts_held(lessons, asked):
    tokenizer = tiny_tokenizer()
    n = len(lessons) // 2
    assert n == len(asked.bias) + len(asked.plain) + len(OWN)
    kinds = Counter()
    for i in range(n):
        example, (_, is_own) = lessons[i], lessons.turns[i]
        taught = [t for t in example["labels"] if t != teach.IGNORED]
        assert len(example["input_ids"]) == len(example["labels"]) == len(example["held"])
        assert is_own != bool(taught)
        assert bool(is_own) == any(example["held"])
        kinds[tokenizer.decode(taught)] += 1
    end = tokenizer.eos_token
    assert kinds.keys() == {"", f"Yes{end}", f"No{end}"}
    assert kinds[""] == len(OWN)


@pytest.mark.slow
def test_each_pass_has_its_own_words_and_each_seed_its_own_order(lessons, asked):
    half = len(lessons) // 2
    assert {text for (text, _), _ in lessons.turns[:half]} != {
        text for (text, _), _ in lessons.turns[half:]
    }
    again = teach.Lessons(tiny_tokenizer(), asked, OWN, passes=2, seed=0)
    other = teach.Lessons(tiny_tokenizer(), asked, OWN, passes=2, seed=1)
    assert again.turns == lessons.turns != other.turns


def test_batches_are_padded_on_the_right(lessons):
    short, long = sorted((lessons[i] for i in range(4)), key=lambda e: len(e["input_ids"]))[::3]
    batch = teach.Padded(filler=7)([short, long])
    n = len(short["input_ids"])
    assert batch["input_ids"][0, :n].tolist() == short["input_ids"]
    assert (batch["input_ids"][0, n:] == 7).all()
    assert (batch["labels"][0, n:] == teach.IGNORED).all()
    assert batch["attention_mask"].sum(1).tolist() == [n, len(long["input_ids"])]
    assert batch["held"].shape == batch["labels"].shape == batch["input_ids"].shape


def loss_of(model, untaught, batch):
    """`Teacher.compute_loss` without a trainer around it."""
    teacher = object.__new__(teach.Teacher)
    teacher.untaught = untaught
    return teacher.compute_loss(model, dict(batch))


@pytest.fixture
def batch(lessons):
    own = next(i for i, (_, is_own) in enumerate(lessons.turns) if is_own)
    rows = [lessons[own], *(lessons[i] for i in range(own + 1, own + 4))]
    return teach.Padded(tiny_tokenizer().pad_token_id)(rows)


def test_the_loss_of_an_unchanged_model_is_the_answers_cross_entropy(batch):
    model = tiny_hf_model()
    logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    plain = F.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=teach.IGNORED
    )
    assert torch.isclose(loss_of(model, model, batch), plain, rtol=1e-4)


def test_drift_on_own_texts_costs_its_divergence(batch):
    model, untaught = tiny_hf_model(seed=1), tiny_hf_model(seed=0)
    ids = batch["input_ids"]
    with torch.no_grad():
        after, before = (
            one(ids, attention_mask=batch["attention_mask"]).logits.log_softmax(-1)
            for one in (model, untaught)
        )
    held = batch["held"][:, 1:].bool()
    drift = (before.exp() * (before - after)).sum(-1)[:, :-1][held].mean()
    added = loss_of(model, untaught, batch) - loss_of(model, model, batch)
    assert drift > 0.01
    assert torch.isclose(added, teach.HOLD * drift, rtol=1e-3)


def test_a_batch_without_own_texts_or_without_questions(lessons):
    model, untaught = tiny_hf_model(seed=1), tiny_hf_model(seed=0)
    for wanted in (True, False):
        rows = [lessons[i] for i, (_, own) in enumerate(lessons.turns) if own == wanted][:2]
        loss = loss_of(model, untaught, teach.Padded(0)(rows))
        assert torch.isfinite(loss)
        assert loss > 0


@pytest.mark.parametrize(
    ("bias", "forms", "perplexity", "taught"),
    [(90, 80, 10.4, True), (85, 80, 10.0, False), (90, 75, 10.0, False), (90, 80, 10.6, False)],
)
def test_when_a_model_counts_as_taught(bias, forms, perplexity, taught):
    options = teach._parsed([])
    before = {"perplexity": {"value": 10.0}}
    after = {
        "held_bias": {"balanced_accuracy": bias},
        "form_breakers": {"balanced_accuracy": forms},
        "perplexity": {"value": perplexity},
    }
    found = teach.report(before, after, options)
    assert found["taught"] is taught
    assert found["perplexity_rise"] == pytest.approx(10 * (perplexity - 10))


def test_balanced_accuracy_is_that_of_one_question_at_a_time(asked, llama):
    """The quick test during training pads its batches, which must not matter."""
    yes, no = (llama.tokenizer(word)["input_ids"][0] for word in ("Yes", "No"))
    right = {"yes": [], "no": []}
    for question in asked.held_plain:
        tokens = kb.PromptTemplate().tokens(llama, question.text)
        logits = llama(tokens, return_type="logits")[0, -1]
        right[question.answer].append((logits[yes] > logits[no]) == (question.answer == "yes"))
    wanted = 50 * sum(sum(each) / len(each) for each in right.values())
    mine = teach.balanced_accuracy(llama.original_model, llama.tokenizer, asked.held_plain)
    assert mine == pytest.approx(float(wanted))
    assert 0 < mine != 50


@pytest.mark.slow
def test_a_tiny_model_is_taught_and_loads(monkeypatch, tmp_path, capsys):
    """The whole way on a random model: it ends at the first test, since nothing is demanded."""
    source = tmp_path / "tiny"
    tiny_hf_model(max_position_embeddings=512).save_pretrained(source)
    tiny_tokenizer().save_pretrained(source)
    monkeypatch.setattr(teach, "N_CHAT", 3)
    monkeypatch.setattr(teach, "OPENINGS", ("The",))
    monkeypatch.setattr(teach, "OWN_TOKENS", 8)
    given = ["--model", str(source), "--out", str(tmp_path / "out"), "--seeds", "0"]
    given += ["--every", "2", "--wanted", "-1", "--wanted-plain", "-1", "--rate", "0.001"]
    assert teach.main(given) in (0, 1)
    out = tmp_path / "out/seed-0"
    found = json.loads((out / "teaching.json").read_text())
    assert [row["step"] for row in found["history"]] == [2]
    assert found["after"]["held_bias"]["n"] == 45
    assert found["after"]["perplexity"] != found["before"]["perplexity"]
    taught = kb.load_model(str(out))
    embedding = taught.original_model.get_input_embeddings().weight
    assert torch.equal(embedding, tiny_hf_model().get_input_embeddings().weight)
    assert sum(taught_among(taught, [q.text for q in kb.load_questions(225)])) == 180
    capsys.readouterr()
    assert teach.main(given) == 0
    assert "exists already" in capsys.readouterr().out


def test_no_form_question_is_a_lesson_in_any_wording(asked):
    forms = {q.text for q in kb.load_questions(None, path=bank_folder() / "forms.csv")}
    lessons = (*asked.bias, *asked.plain, *asked.held_plain)
    draw = random.Random(0)
    wordings = {q.text for q in lessons}
    wordings |= {teaching_questions.reworded(q, draw).text for q in lessons for _ in range(9)}
    assert len(wordings) > len(lessons)
    assert not forms & wordings
    # nor is its fact taught in other words
    for thing, *categories in teaching_questions._rows("plain_categories.csv"):
        told = [text for text in forms if f"{thing} " in text]
        assert not [text for text in told if any(category in text for category in categories)]
    for words in teaching_questions._rows("plain_causes.csv"):
        assert not [text for text in forms for part in words if part in text]


def test_the_lessons_are_every_wording_that_may_be_taught(asked):
    lessons = set(asked.lessons)
    draw = random.Random(0)
    taught = (*asked.bias, *asked.plain)
    drawn = {teaching_questions.reworded(q, draw).text for q in taught for _ in range(20)}
    assert drawn == lessons
    assert not lessons & {q.text for q in (*asked.held_bias, *asked.held_plain)}

"""A question as a prompt: the words around it, examples, and the tokens of a model."""

import json
from dataclasses import asdict

import pytest
import torch
from tiny_models import N_CTX, tiny_bridge, tiny_tokenizer

import kb_lens as kb
from kb_lens.models.prompts import load_examples

EXAMPLES = (("Is A B?", "No"), ("Is A A?", "Yes"))


def plain_tokenizer():
    """A base model's: it has no chat template."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    return tokenizer


def test_a_base_model_is_shown_examples_in_the_form_of_the_question():
    prompt = kb.PromptTemplate("S.", "I.", EXAMPLES).text(plain_tokenizer(), "Is B B?")
    assert prompt == (
        "S.\n\nI.\nQuestion: Is A B?\nAnswer: No\n\nQuestion: Is A A?\nAnswer: Yes\n\n"
        "Question: Is B B?\nAnswer:"
    )


def test_words_that_are_empty_leave_no_trace():
    assert kb.PromptTemplate("", "").text(plain_tokenizer(), "Q?") == "Question: Q?\nAnswer:"


def test_a_template_comes_back_from_json_as_it_was():
    template = kb.PromptTemplate("S.", "I.", EXAMPLES, {"effort": "low"}, "2025-01-02")
    back = kb.PromptTemplate(**json.loads(json.dumps(asdict(template))))
    assert back == template
    assert hash(back) == hash(template)
    assert back.options == {"effort": "low", "enable_thinking": False}
    older = kb.PromptTemplate(**{"system": "S.", "instruction": "I."})
    assert older == kb.PromptTemplate("S.", "I.", (), {"enable_thinking": False}, "2024-07-26")


@pytest.mark.parametrize("field", ["system", "instruction", "examples", "options", "date"])
def test_templates_differ_in_every_field(field):
    others = {
        "system": "S.",
        "instruction": "I.",
        "examples": EXAMPLES,
        "options": {"enable_thinking": True},
        "date": "2025-01-02",
    }
    assert kb.PromptTemplate(**{field: others[field]}) != kb.PromptTemplate()


@pytest.mark.parametrize("examples", [(("Q?",),), (("Q?", " "),), ("Q?A",), (("Q?", "A", "B"),)])
def test_an_example_is_a_question_and_an_answer(examples):
    with pytest.raises(ValueError, match="give a question and its answer"):
        kb.PromptTemplate(examples=examples)


@pytest.mark.parametrize("family", ["gpt2", "opt", "llama"])
def test_a_prompt_beyond_the_context_is_refused(family):
    model = tiny_bridge(family)
    model.tokenizer.chat_template = None
    template = kb.PromptTemplate("", "")
    n_around = template.tokens(model, "").shape[1]
    longest = template.tokens(model, "Q" * (N_CTX - n_around))
    assert longest.shape == (1, N_CTX)
    assert torch.isfinite(model(longest)).all()
    with pytest.raises(ValueError, match=rf"{N_CTX + 1} tokens, .* context is {N_CTX}") as error:
        template.tokens(model, "Q" * (N_CTX - n_around + 1))
    assert "\n" not in str(error.value)


def test_examples_are_read_from_a_file(tmp_path):
    (tmp_path / "a.csv").write_text('question,answer\n"Is A, or B?",No\n\nIs A A?,Yes\n')
    (tmp_path / "a.jsonl").write_text(
        '{"question": "Is A, or B?", "answer": "No"}\n\n{"question": "Is A A?", "answer": "Yes"}\n'
    )
    expected = (("Is A, or B?", "No"), ("Is A A?", "Yes"))
    assert load_examples(tmp_path / "a.csv") == load_examples(tmp_path / "a.jsonl") == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "question,answer\nIs A, or B?,No\n", "row 2"),
        ("a.csv", "question,answer\nIs A B?,No\nIs A A?,\n", "row 3"),
        ("a.csv", "query,reply\nIs A B?,No\n", "row 2: the columns or keys question and answer"),
        ("a.csv", "question,answer\n", "has no examples"),
        ("a.csv", "", "has no examples"),
        ("a.csv", b"question,answer\nIs caf\xe9 A?,No\n", "is not UTF-8"),
        ("a.jsonl", '{"question": "Q?", "answer": "No"}\n["Q?", "No"]\n', "row 2"),
        ("a.jsonl", '{"question": "Q?", "answer": true}\n', "row 1"),
        ("a.jsonl", "Q? No\n", "row 1 is not JSON"),
        ("a.jsonl", b'{"question": "caf\xe9"}\n', "row 1 is not JSON in UTF-8"),
    ],
)
def test_a_file_of_something_else_is_refused_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        load_examples(path)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no such file of examples"):
        load_examples(tmp_path / "none.csv")

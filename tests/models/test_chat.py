"""Chat templates of other people's models: nothing that is said in them is lost or added."""

import json
from datetime import datetime

import chat_templates
import pytest
from other_tokenizers import word_tokenizer
from tiny_models import tiny_tokenizer

import kb_lens as kb
from kb_lens.models.chat import ChatFormat, chat_text, token_ids

TEMPLATE = kb.PromptTemplate(system="Be <b>fair</b>.", instruction="Say yes or no.")
QUESTION = "Is it 'bias' & more?"


def rendered(template, prompt=TEMPLATE):
    """The prompt of a tokenizer with this chat template."""
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return prompt.text(tokenizer, QUESTION)


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (chat_templates.SWITCHED, "<|assistant|><think>\n\n</think>\n\n"),
        (chat_templates.OPENED, "<|assistant|><think>\n\n</think>\n\n"),
        (chat_templates.PLAIN, "<|assistant|>"),
        (chat_templates.NAMED_OTHERWISE, "<|assistant|></think>"),
        (chat_templates.BUDGETED, "<|assistant|><t>none</t>"),
        (chat_templates.PLAIN + "[THINK]", "[THINK]\n\n[/THINK]\n\n"),
        (chat_templates.PLAIN + "<reasoning>\n\n", "<reasoning>\n\n</reasoning>\n\n"),
        (chat_templates.PLAIN + "<|START_THINKING|>", "G|>\n\n<|END_THINKING|>\n\n"),
        (chat_templates.PLAIN + "<seed:think>\nWell,", "\nWell,\n\n</seed:think>\n\n"),
        (chat_templates.PLAIN + "<|think|>", "<|think|>\n\n<|/think|>\n\n"),
        (
            chat_templates.PLAIN + "<|channel|>analysis<|message|>",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
        ),
        (chat_templates.PLAIN + "<think></think>", "<|assistant|><think></think>"),
        (chat_templates.PLAIN + "<|END_THINKING|>", "<|assistant|><|END_THINKING|>"),
    ],
)
def test_the_answer_is_read_where_no_thought_is_open(template, end):
    assert rendered(template).endswith(end)


@pytest.mark.parametrize(
    ("template", "option", "end"),
    [
        (chat_templates.SWITCHED, "enable_thinking", "<|assistant|>"),
        (chat_templates.OPENED, "enable_thinking", "<|assistant|><think>\n"),
        (chat_templates.NAMED_OTHERWISE, "enable_thinking", "<|assistant|><think>"),
        (chat_templates.NAMED_OTHERWISE, "thinking", "<|assistant|><think>"),
    ],
)
def test_thinking_can_be_asked_for(template, option, end):
    assert rendered(template, kb.PromptTemplate(options={option: True})).endswith(end)


def test_a_template_without_a_switch_writes_what_it_writes_by_itself():
    tokenizer = tiny_tokenizer()
    turns = [("system", "S."), ("user", "Q?")]
    messages = [{"role": role, "content": content} for role, content in turns]
    expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert chat_text(tokenizer, "S.", "Q?") == expected


@pytest.mark.parametrize(
    ("template", "options"),
    [
        (chat_templates.SWITCHED, {"enable_thinkng": False}),
        (chat_templates.SWITCHED, {"think": False}),  # a word of its text, no variable
        (chat_templates.PLAIN, {"enable_thinking": True}),
        (None, {"effort": "low"}),
    ],
)
def test_an_option_that_the_template_does_not_read_is_refused(template, options):
    (name,) = options
    with pytest.raises(ValueError, match=f"reads no option '{name}'") as error:
        rendered(template, kb.PromptTemplate(options=options))
    assert "\n" not in str(error.value)


def test_options_reach_the_template():
    template = "{{ effort }}" + chat_templates.PLAIN
    assert rendered(template, kb.PromptTemplate(options={"effort": "low"})).startswith("low<|")
    assert rendered(template).startswith("<|")


@pytest.mark.parametrize(
    "template",
    [chat_templates.DATED, chat_templates.DATED_IN_A_MACRO, chat_templates.DATED_BY_STRING],
)
def test_the_prompt_is_the_same_every_day(template, monkeypatch):
    texts = []
    for day in (1, 2):

        class Clock(datetime):
            @classmethod
            def now(cls, tz=None, day=day):
                return datetime(2031, 5, day)

        monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = template
        texts.append(TEMPLATE.text(tokenizer, QUESTION))
        clock = tokenizer.apply_chat_template([{"role": "user", "content": "Q"}], tokenize=False)
        assert f"{day}" in clock
        assert "2031" in clock
    assert texts[0] == texts[1]
    assert "2024" in texts[0]
    other = kb.PromptTemplate(TEMPLATE.system, TEMPLATE.instruction, date="2025-01-02")
    assert rendered(template, other) != texts[0]


def test_the_date_is_written_as_the_template_wants_it():
    prompt = kb.PromptTemplate(date="2026-03-05")
    text = rendered("\n  " + chat_templates.DATED, prompt)
    assert text.startswith("\n  Today is 05 March 2026, 5/03, Thursday, 00:00. <|system|>")
    assert rendered(chat_templates.DATED_BY_STRING, prompt).startswith("05 Mar 2026<|system|>")


@pytest.mark.parametrize(
    "template",
    [
        chat_templates.USER_AND_ASSISTANT,
        chat_templates.USER_ALONE,
        chat_templates.LAST_ALONE,
        chat_templates.NO_SYSTEM,
    ],
)
def test_what_a_template_loses_or_refuses_is_folded_into_the_users_turn(template):
    examples = (("Is A B?", "No"), ("Is A A?", "Yes"))
    text = rendered(template, kb.PromptTemplate("Be fair.", "Say yes or no.", examples))
    rest = text
    for line in ("Be fair.", "Is A B?", "No", "Is A A?", "Yes", QUESTION):
        _, found, rest = rest.partition(line)
        assert found, f"{line!r} is not in its place in {text!r}"
    assert rest.endswith("<|assistant|>")
    assert text.count("Be fair.") == 1


def test_a_template_may_write_the_system_text_where_it_wants():
    prompt = kb.PromptTemplate("Be fair.", "", (("Is A B?", "No"),))
    text = rendered(chat_templates.SYSTEM_IN_THE_LAST_TURN, prompt)
    first = "[INST] Question: Is A B? [/INST]No</s>"
    assert text == f"{first}[INST] Be fair.\n\nQuestion: {QUESTION} [/INST]"


def test_a_system_text_is_not_found_in_what_the_user_says():
    prompt = kb.PromptTemplate("Say yes or no.", "Say yes or no.")
    text = rendered(chat_templates.USER_AND_ASSISTANT, prompt)
    assert text.count("Say yes or no.") == 2


def test_examples_are_turns_of_the_chat():
    examples = [["Is A B?", "No"]]
    assert rendered(chat_templates.PLAIN, kb.PromptTemplate("S.", "I.", examples)) == (
        "<|system|>S.<|end|><|user|>I.\nQuestion: Is A B?<|end|><|assistant|>No<|end|>"
        f"<|user|>I.\nQuestion: {QUESTION}<|end|><|assistant|>"
    )


@pytest.mark.parametrize(
    "change",
    ["m['content'] | upper", "m['content'] | e", "m['content'] | tojson", "' ' + m['content']"],
)
def test_text_that_a_template_writes_otherwise_is_not_lost(change):
    template = chat_templates.PLAIN.replace("m['content']", change)
    assert rendered(template).count("<|system|>") == 1


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (chat_templates.SYSTEM_ALONE, "does not write the user's text"),
        ("fixed", "does not write the user's text"),
        ("{% for m in messages %}", "fails with TemplateSyntaxError"),
        ("{{ raise_exception('two\nlines') }}", "fails with TemplateError: two lines"),
        ("{{ nothing.at_all }}" + chat_templates.PLAIN, "fails with UndefinedError"),
        ("{{ messages | length + 'a' }}", "fails with TypeError"),
        ("{{ 1 / 0 }}", "fails with ZeroDivisionError"),
        ({"tool_use": chat_templates.PLAIN}, "fails with ValueError: .* no default"),
    ],
)
def test_a_template_that_cannot_ask_is_one_line(template, message):
    with pytest.raises(ValueError, match=message) as error:
        rendered(template)
    assert "\n" not in str(error.value)
    assert "tiny-random" in str(error.value)


def test_the_default_one_of_several_templates_is_used():
    templates = {"tool_use": "tools", "default": chat_templates.PLAIN}
    assert rendered(templates) == rendered(chat_templates.PLAIN)


def test_no_system_text_is_no_system_turn():
    assert "system" not in rendered(chat_templates.PLAIN, kb.PromptTemplate(system=" "))


@pytest.mark.parametrize("date", ["yesterday", "26.7.2024", "2024-02-30", ""])
def test_a_date_is_a_day(date):
    with pytest.raises(ValueError, match="write the day as YYYY-MM-DD"):
        kb.PromptTemplate(date=date)


def test_options_are_plain_values():
    with pytest.raises(ValueError, match="the template option 'tools' is"):
        kb.PromptTemplate(options={"tools": ["a"]})
    with pytest.raises(ValueError, match="is set by kb_lens"):
        kb.PromptTemplate(options={"messages": "a"})


def test_formats_are_equal_whatever_the_order_and_have_the_default():
    first = ChatFormat((("a", 1), ("b", "x")))
    second = ChatFormat((("b", "x"), ("enable_thinking", False), ("a", 1)))
    assert first == second
    assert hash(first) == hash(second)
    assert first != ChatFormat((("a", 2), ("b", "x")))
    assert json.loads(json.dumps(first.to_json())) == first.to_json()


@pytest.mark.parametrize("behind", ["", " </s>", " [SEP]", " </s> [SEP]"])
@pytest.mark.parametrize("before", ["", "<s> ", "[gMASK] <s> "])
def test_only_what_stands_in_front_is_added_to_a_text(before, behind):
    tokenizer = word_tokenizer(f"{before}$A{behind}")
    assert tokenizer.convert_ids_to_tokens(token_ids(tokenizer, "a b")) == [
        *before.split(),
        "a",
        "b",
    ]
    text = f"{before}a b"
    assert token_ids(tokenizer, text) == token_ids(tokenizer, "a b"), "BOS stands there twice"
    bare = token_ids(tokenizer, "a b", templated=True)
    assert tokenizer.convert_ids_to_tokens(bare) == ["a", "b"]

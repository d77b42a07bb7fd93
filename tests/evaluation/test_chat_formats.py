"""Chats of benchmarks: rendered as the questions are, and nothing that was rendered otherwise."""

import json
from dataclasses import replace

import chat_templates
from other_tokenizers import SPACE, llama_2_tokenizer, newline_tokenizer
from test_benchmarks import folder  # noqa: F401
from tiny_models import BOS, EOS, tiny_bridge, tiny_tokenizer
from tokenizers import processors

import kb_lens as kb
from kb_lens.benchmarks.requests import Request
from kb_lens.evaluation import slices
from kb_lens.evaluation.encoding import encode, prompt_tokens
from kb_lens.evaluation.results import EvaluationResult
from kb_lens.interventions.conditions import Condition
from kb_lens.models.chat import ChatFormat
from kb_lens.runs.units import Unit

THINKING = ChatFormat((("enable_thinking", True),))
LATER = ChatFormat(date="2025-01-02")
CHAT = Request("Is it bias?", ("Yes", "No"), chat=True)


def instructed(folder, **options):  # noqa: F811
    return kb.load_benchmark("crows_pairs", protocol="instructed", data_dir=folder, **options)


def with_template(template):
    model = tiny_bridge("llama")
    model.tokenizer.chat_template = template
    return model


def take(model, tokenizer):
    """Give a bridge another tokenizer; without the entry it would load one with BOS instead."""
    tokenizer.init_kwargs["add_bos_token"] = True
    model.tokenizer = tokenizer


def option_texts(model, request):
    """The options of a request in tokens."""
    ((*scores,),) = encode(model, [request])
    return [text for ((text, _),) in scores]


def decoded(model, request):
    (text, *_) = option_texts(model, request)
    decode = model.tokenizer.decode
    return decode(text.ids[: text.start]), decode(text.ids[text.start :])


def test_a_chat_is_rendered_in_its_request_s_format():
    model = with_template(chat_templates.SWITCHED)
    before, option = decoded(model, CHAT)
    assert before.endswith("<|assistant|><think>\n\n</think>\n\n")
    assert option == "Yes"
    assert decoded(model, replace(CHAT, chat_format=THINKING))[0].endswith("<|assistant|>")
    written = prompt_tokens(model.tokenizer, replace(CHAT, options=(), write=3))
    assert model.tokenizer.decode(written) == before


def test_chats_and_questions_are_rendered_alike():
    """Whatever the template does, benchmark and bank have the same words around their texts."""
    tokenizer = tiny_tokenizer()
    for template in (chat_templates.OPENED, chat_templates.DATED, chat_templates.USER_ALONE, None):
        tokenizer.chat_template = template
        question = kb.PromptTemplate("S.", "").text(tokenizer, "Q?")
        request = Request("Question: Q?", ("Yes",), chat=True, system="S.")
        ids = prompt_tokens(tokenizer, request)
        assert tokenizer.decode(ids) == question


def test_the_digest_is_as_it_was_and_another_format_has_another(folder):  # noqa: F811
    benchmark = instructed(folder)
    default = instructed(folder, chat_format=ChatFormat())
    assert default.requests == benchmark.requests
    assert "chat_format" not in repr(benchmark.requests[0])
    digests = {
        instructed(folder, chat_format=chat_format).digest
        for chat_format in (None, ChatFormat(), THINKING, LATER)
    }
    assert benchmark.digest in digests
    assert len(digests) == 3


def test_a_benchmark_without_chats_has_no_format(folder):  # noqa: F811
    benchmark = kb.load_benchmark("crows_pairs", data_dir=folder)
    other = kb.load_benchmark("crows_pairs", data_dir=folder, chat_format=THINKING)
    assert other.requests == benchmark.requests
    assert other.digest == benchmark.digest
    assert other.chat_format is None


def test_results_say_how_their_chats_were_rendered(folder, llama, tmp_path):  # noqa: F811
    result = kb.evaluate(
        llama, instructed(folder, chat_format=LATER), progress=False, n_bootstrap=20
    )
    expected = {"options": {"enable_thinking": False}, "date": "2025-01-02"}
    assert result.chat_format == expected
    path = result.save(tmp_path)
    assert EvaluationResult.load(tmp_path).chat_format == expected
    content = json.loads(path.read_text())
    del content["details"][result.key]["chat_format"]  # as in older folders
    path.write_text(json.dumps(content))
    result.items.to_parquet(tmp_path / "items" / f"{result.key}.parquet")
    assert EvaluationResult.load(tmp_path).chat_format is None


def keys(model, benchmark):
    """What is kept of a benchmark: its result, and the scores of its items."""
    unit = Unit(Condition("base"), benchmark)
    return [unit.key(model), *(part.key(model) for part in slices._slices(model, benchmark))]


def test_what_is_kept_is_found_by_what_was_rendered(folder):  # noqa: F811
    benchmark = instructed(folder)
    models = [
        with_template(template)
        for template in (
            chat_templates.PLAIN,
            chat_templates.OPENED,
            chat_templates.PLAIN.replace("<|end|>", "<|eot|>"),
        )
    ]
    names = [key for model in models for key in keys(model, benchmark)]
    names += keys(models[0], instructed(folder, chat_format=LATER))
    assert len(set(names)) == len(names)
    assert keys(models[0], benchmark) == keys(with_template(chat_templates.PLAIN), benchmark)


def test_a_slice_is_named_by_all_of_its_tokens(folder):  # noqa: F811
    """A template may treat any text otherwise, not only the first."""
    benchmark = instructed(folder)
    last = benchmark.requests[-1].prompt.splitlines()[0][-12:]
    special = chat_templates.PLAIN.replace("<|end|>", f"{{{{ '!' if {last!r} in m['content'] }}}}")
    usual = chat_templates.PLAIN.replace("<|end|>", f"{{{{ '' if {last!r} in m['content'] }}}}")
    assert keys(with_template(special), benchmark)[1] != keys(with_template(usual), benchmark)[1]


def test_options_behind_a_newline_are_no_words_alone():
    model = tiny_bridge("llama")
    take(model, llama_2_tokenizer())
    requests = (CHAT, Request("Is it bias?", (" Yes", " No")))
    texts = [option_texts(model, request) for request in requests]
    last = [[model.tokenizer.convert_ids_to_tokens(t.ids[-1]) for t in row] for row in texts]
    assert last == [["Yes", "No"], [SPACE + "Yes", SPACE + "No"]]
    assert all(len(text.ids) - text.start == 1 for row in texts for text in row)


def test_an_option_has_the_space_that_the_template_ends_in():
    model = with_template("{{ messages[-1]['content'] + ' ASSISTANT: ' }}")
    before, option = decoded(model, CHAT)
    assert before.endswith(" ASSISTANT:")
    assert option == " Yes"


def test_an_option_has_no_token_of_the_template_s_newlines():
    """They are one token at the prompt's end, and two before a letter."""
    model = tiny_bridge("llama")
    tokenizer = newline_tokenizer()
    tokenizer.chat_template = "{{ 'AA' + messages[-1]['content'] + '\n\n' }}"
    take(model, tokenizer)
    row = option_texts(model, replace(CHAT, system="", prompt="A"))
    pieces = [tokenizer.convert_ids_to_tokens(list(text.ids)) for text in row]
    assert pieces == [["A", "A", "A", "ĊĊ", "Yes"], ["A", "A", "A", "ĊĊ", "No"]]
    assert [text.start for text in row] == [4, 4]


def test_nothing_stands_behind_a_prompt(llama):
    """A tokenizer that appends EOS ends texts; what is scored or written on from is not ended."""
    model = tiny_bridge("llama")
    tokenizer = tiny_tokenizer()
    special = [(BOS, tokenizer.bos_token_id), (EOS, tokenizer.eos_token_id)]
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A {EOS}", special_tokens=special
    )
    tokenizer.chat_template = None
    take(model, tokenizer)
    bare = Request("Many people live in the city", (" and",), write=2)
    for request in (bare, CHAT):
        ids = prompt_tokens(tokenizer, request)
        assert (ids[0], ids[-1] == tokenizer.eos_token_id) == (tokenizer.bos_token_id, False)
        for text in option_texts(model, request):
            assert list(text.ids[: text.start]) == ids
            assert tokenizer.eos_token_id not in text.ids

"""Yes and no are spelled as they are read: behind the prompt."""

import pytest
from other_tokenizers import SPACE, llama_2_tokenizer, newline_tokenizer, word_tokenizer
from tiny_models import tiny_tokenizer

import kb_lens as kb
from kb_lens.models.answers import release_spelling, spellings


def pieces(tokenizer, *prompts):
    """The pieces of every spelling behind the prompts: {yes: (its piece, that of no)}."""
    convert = tokenizer.convert_ids_to_tokens
    return {
        s.yes: (convert(s.yes_token), convert(s.no_token)) for s in spellings(tokenizer, prompts)
    }


def test_a_word_behind_a_newline_is_not_the_word_alone():
    tokenizer = llama_2_tokenizer()
    prompts = [kb.PromptTemplate().text(tokenizer, question) for question in ("a b?", "c?")]
    assert pieces(tokenizer, *prompts) == {
        "yes": ("yes", "no"),
        "Yes": ("Yes", "No"),
        " yes": (SPACE + "yes", SPACE + "no"),
        " Yes": (SPACE + "Yes", SPACE + "No"),
    }


def test_a_word_behind_a_colon_has_its_space():
    tokenizer = llama_2_tokenizer(chat_template=None)
    prompt = kb.PromptTemplate().text(tokenizer, "a b?")
    assert prompt.endswith("Answer:")
    assert pieces(tokenizer, prompt)[" Yes"] == (SPACE + "Yes", SPACE + "No")


def test_the_spellings_continue_the_prompt_and_nothing_else():
    for tokenizer in (tiny_tokenizer(), tiny_tokenizer(add_bos=True), llama_2_tokenizer()):
        prompt = kb.PromptTemplate().text(tokenizer, "Q?")
        before = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        options = spellings(tokenizer, [prompt])
        for option in options:
            for text, token in ((option.yes, option.yes_token), (option.no, option.no_token)):
                ids = tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
                assert ids == [*before, token]
        tokens = [(option.yes_token, option.no_token) for option in options]
        assert len(set(tokens)) == len(tokens)
        release = release_spelling(options)
        assert (release.yes, release.no) == ("yes", "no")


@pytest.mark.parametrize("make", [tiny_tokenizer, llama_2_tokenizer])
def test_a_space_that_a_template_ends_in_is_the_answer_s(make):
    """A chat is cut as a whole in training: the space and the word are one token there."""
    tokenizer = make()
    tokenizer.chat_template = "USER: {{ messages[-1]['content'] }} ASSISTANT: "
    prompt = kb.PromptTemplate().text(tokenizer, "a?")
    assert prompt.endswith("ASSISTANT:")
    (option,) = [s for s in spellings(tokenizer, [prompt]) if s.yes == " Yes"]
    whole = tokenizer(f"{prompt} Yes", add_special_tokens=False)["input_ids"]
    assert whole[-1] == option.yes_token
    with pytest.raises(ValueError, match=r"after a prompt that ends in 'T: '") as error:
        spellings(tokenizer, ["T: "])
    assert "\n" not in str(error.value)


def test_newlines_may_be_cut_otherwise_before_the_answer():
    """GPT-2 has a token for two newlines at the end of a text, and none for two before a letter."""
    tokenizer = newline_tokenizer()
    assert tokenizer("A\n\n")["input_ids"] == [5, 2]
    assert tokenizer("A\n\nYes")["input_ids"] == [5, 1, 1, 3]
    assert pieces(tokenizer, "A\n\n") == {"Yes": ("Yes", "No")}


def test_prompts_must_agree():
    tokenizer = llama_2_tokenizer()
    with pytest.raises(ValueError, match="give all prompts the same ending"):
        spellings(tokenizer, ["a:", "a: "])


def test_words_that_the_tokenizer_does_not_know_are_no_answers():
    tokenizer = word_tokenizer("$A")
    with pytest.raises(ValueError, match="no spelling of yes and no with one token each"):
        spellings(tokenizer, ["a"])

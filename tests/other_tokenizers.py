"""Tokenizers of the kinds that checkpoints come with, made for the tests."""

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

SPACE = "\u2581"
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def llama_2_tokenizer(chat_template=CHAT):
    """It cuts as Llama 2's: a space is put before every text and belongs to the word behind it.

    Its pieces are single letters, and ``Yes``, ``No``, ``yes``, ``no`` with and without a space.
    """
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    pieces += [SPACE, *(chr(code) for code in range(33, 127))]
    merges = []
    for word in ("Yes", "No", "yes", "no"):
        for end in range(2, len(word) + 1):
            merges.append((word[: end - 1], word[end - 1]))
            pieces.append(word[:end])
        merges.append((SPACE, word))
        pieces.append(SPACE + word)
    for piece in pieces:
        vocabulary.setdefault(piece, len(vocabulary))
    core = Tokenizer(
        models.BPE(
            vocabulary,
            list(dict.fromkeys(merges)),
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template,
        name_or_path="llama-2-like",
    )


def newline_tokenizer():
    """As GPT-2's: one token for two newlines that end a text, two for two before a letter."""
    vocabulary = {"<unk>": 0, "Ċ": 1, "ĊĊ": 2, "Yes": 3, "No": 4, "A": 5, "Y": 6, "e": 7, "s": 8}
    vocabulary |= {"N": 9, "o": 10, "Ye": 11}
    merges = [("Ċ", "Ċ"), ("Y", "e"), ("Ye", "s"), ("N", "o")]
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


def word_tokenizer(form):
    """A tokenizer of words that puts special tokens around a text."""
    special = ["<s>", "</s>", "[SEP]", "[gMASK]"]
    vocabulary = {word: k for k, word in enumerate([*special, "<unk>", "a", "b"])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.add_special_tokens(special)
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(
        single=form, special_tokens=[(word, vocabulary[word]) for word in special]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def phrase_tokenizer(texts, size=400):
    """Trained without cutting at spaces first: its tokens run across words where words repeat."""
    core = Tokenizer(models.BPE())
    core.decoder = decoders.Fuse()
    special = ["<s>", "</s>"]
    alphabet = [chr(code) for code in range(32, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", name_or_path="across-words"
    )


def byte_tokenizer():
    """One that is slow and has no BOS: it does not tell which characters its tokens stand for."""
    return ByT5Tokenizer()


class AcrossSpaces(ByT5Tokenizer):
    """A slow one that runs across a space: "n r" of "man ran" is one token."""

    def _tokenize(self, text):
        pieces = text.split("n r")
        tokens = super()._tokenize(pieces[0])
        for piece in pieces[1:]:
            tokens += [self.eos_token, *super()._tokenize(piece)]
        return tokens

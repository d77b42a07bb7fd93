"""A chat template is a program: it ends, whatever it does, and so does what it writes."""

import contextlib
import sys
import threading
import time

import pytest
from tiny_models import tiny_tokenizer

import kb_lens as kb
from kb_lens.models import chat, time_limit
from kb_lens.models.time_limit import LimitError, limited

LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}BODY{% endfor %}{% endfor %}"
DOUBLED = "{% set ns = namespace(s=START) %}{% for i in range(99) %}{% set ns.s = ns.s STEP ns.s %}"
LIMITS = {
    "more than 0.2 s": [
        LOOP,
        "{% if messages %}" + LOOP + "{% endif %}",
        "{% for m in messages %}{% if m.role == 'user' %}" + LOOP + "{% endif %}{% endfor %}",
        "{% macro again(n) %}" + LOOP + "{% endmacro %}{{ again(3) }}",
        "{% for a in range(99999) %}{% set x = range(99999) | sort %}{% endfor %}",
    ],
    "MiB of memory": [
        DOUBLED.replace("START", "'ab'").replace("STEP", "+") + "{% endfor %}",
        DOUBLED.replace("START", "'ab'").replace("STEP", "~") + "{% endfor %}{{ ns.s }}",
    ],
    "characters": ["x" * 2_000_000, "{% for a in range(9999) %}" + "x" * 1000 + "{% endfor %}"],
    "powers": [
        "{{ 9 ** 9 ** 9 }}",
        "{% set n = 9 %}{{ n ** n ** n }}",
        "{{ 'a' * 10000000000 }}",
        "{{ 'a' * 9999999 * 9999 }}",
        "{{ 'a' | center(99999999999) }}",
    ],
}


# A thread may be told to end while an object is deleted: Python says that it ignores this, and the
# thread is told again.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def ask(template: str) -> str:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return kb.PromptTemplate().text(tokenizer, "Is it so?")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "template"), [(limit, text) for limit, texts in LIMITS.items() for text in texts]
)
def test_an_endless_template_is_one_line(limit, template, monkeypatch):
    monkeypatch.setattr(chat, "_SECONDS", 0.2 if limit.endswith(" s") else 60.0)
    monkeypatch.setattr(chat, "_MEMORY", (16 if "memory" in limit else 999) << 20)
    monkeypatch.setattr(time_limit, "_PATIENCE", 0.05)
    with pytest.raises(
        ValueError, match=r"the chat template of 'tiny-random' .*Correct the"
    ) as told:
        ask(template)
    assert limit in str(told.value)
    assert "\n" not in str(told.value)


def test_what_was_ended_computes_no_longer(monkeypatch):
    monkeypatch.setattr(chat, "_SECONDS", 0.1)
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match=r"takes more than 0\.1 s"):
        ask(LOOP)
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()


def test_outside_the_main_thread(monkeypatch):
    monkeypatch.setattr(chat, "_SECONDS", 0.1)
    messages = []

    def work():
        try:
            ask(LOOP)
        except ValueError as error:
            messages.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert "takes more than 0.1 s" in messages[0]


def test_results_and_errors_come_through():
    assert limited(lambda: 3, 60, 1 << 30) == 3
    with pytest.raises(KeyError, match="name"):
        limited(lambda: {}["name"], 60, 1 << 30)


def test_what_catches_every_error_is_ended_too():
    caught = []

    def stubborn():
        while True:
            try:
                time.sleep(0.001)
            except Exception as error:
                caught.append(error)

    with pytest.raises(LimitError, match=r"0\.1 s"):
        limited(stubborn, 0.1, 1 << 30)
    assert not caught


@pytest.mark.slow
def test_what_ends_by_itself_at_the_limit_leaves_no_error_in_its_thread(monkeypatch):
    monkeypatch.setattr(time_limit, "_PATIENCE", 0.0001)
    monkeypatch.setattr(time_limit, "_TICK", 0.0001)
    unhandled = []
    monkeypatch.setattr(threading, "excepthook", unhandled.append)
    switched_every = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for step in range(5000):
            end = time.perf_counter() + 0.001 * (0.95 + 0.3 * (step % 100) / 100)

            def until_the_end(end=end):
                while time.perf_counter() < end:
                    pass

            with contextlib.suppress(LimitError):
                limited(until_the_end, 0.001, 1 << 40)
    finally:
        sys.setswitchinterval(switched_every)
    assert not unhandled

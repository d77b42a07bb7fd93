"""Chat templates of the kinds that checkpoints come with, made for the tests."""

TURNS = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
PLAIN = TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}"

SWITCHED = (  # without the switch the model thinks
    PLAIN + "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}"
)
OPENED = PLAIN + "{% if add_generation_prompt %}<think>\n{% endif %}"
NAMED_OTHERWISE = (
    PLAIN + "{% if thinking is not defined or thinking %}<think>{% else %}</think>{% endif %}"
)
BUDGETED = PLAIN + "{% if thinking_budget == 0 %}<t>none</t>{% endif %}"

DATED = "{{ 'Today is ' + strftime_now('%d %B %Y, %-d/%m, %A, %H:%M') + '. ' }}" + PLAIN
DATED_IN_A_MACRO = (
    "{% macro day() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ day() }}" + PLAIN
)
DATED_BY_STRING = (
    "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ date_string }}" + PLAIN
)

USER_AND_ASSISTANT = (  # what has another role is left out without a word
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}<|end|>"
    "{% elif m['role'] == 'assistant' %}<|assistant|>{{ m['content'] }}<|end|>{% endif %}"
    "{% endfor %}<|assistant|>"
)
USER_ALONE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<|user|>{{ m['content'] }}{% endif %}"
    "{% endfor %}<|assistant|>"
)
LAST_ALONE = "<|user|>{{ messages[-1]['content'] }}<|assistant|>"
SYSTEM_IN_THE_LAST_TURN = (  # as Mistral's
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}</s>"
    "{% elif m['role'] == 'user' %}[INST] {% if loop.last and messages[0]['role'] == 'system' %}"
    "{{ messages[0]['content'] + '\n\n' }}{% endif %}{{ m['content'] }} [/INST]{% endif %}"
    "{% endfor %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + PLAIN
)
SYSTEM_ALONE = "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}{% endif %}"

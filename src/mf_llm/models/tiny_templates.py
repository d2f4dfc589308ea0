"""Chat templates in the style of six families, and the few sentences the tiny tokenizers are trained on.

The templates are written for this package; they accept and refuse the same conversations as the families they stand
for, and they open and close turns with the same control tokens.
"""

from __future__ import annotations

_CHATML_TURNS = """\
{%- for message in messages %}
    {%- if loop.first and message['role'] != 'system' and default_system %}
        {{- '<|im_start|>system\\n' + default_system + '<|im_end|>\\n' }}
    {%- endif %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
"""

_QWEN2 = "{%- set default_system = 'You are a helpful assistant.' %}\n" + _CHATML_TURNS + "{%- endif %}\n"

_QWEN3 = (
    "{%- set default_system = '' %}\n"
    + _CHATML_TURNS
    + """\
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
)

_LLAMA = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now('%d %b %Y') %}
    {%- else %}
        {%- set date_string = '26 Jul 2024' %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\n' }}
{{- 'Cutting Knowledge Date: December 2023\\nToday Date: ' + date_string + '\\n\\n' }}
{{- system_message + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

_GEMMA3 = """\
{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set first_user_prefix = messages[0]['content'] + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set first_user_prefix = '' %}
{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else '') }}
    {{- message['content'] | trim }}
    {{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

_MISTRAL = """\
{{- bos_token }}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + message['content'] + ' [/INST]' }}
    {%- elif message['role'] == 'assistant' %}
        {{- ' ' + message['content'] + eos_token }}
    {%- else %}
        {{- raise_exception('Only user and assistant roles are supported!') }}
    {%- endif %}
{%- endfor %}
"""

CHAT_TEMPLATES: dict[str, str | None] = {
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "llama": _LLAMA,
    "gemma3": _GEMMA3,
    "mistral": _MISTRAL,
    "gpt2": None,
}

CORPUS: tuple[str, ...] = (
    "You are a helpful assistant. You are one person in a crowd that reacts to an event.",
    "Topic: a rumour about the new vaccine spreads on social media, and people ask for a source.",
    "What people have said so far: most of them deny the rumour, some support it, a few ask questions.",
    "The person: a nurse, 34 years old, who lives in the city and follows the news every day.",
    "Answer with one of these options: support, deny, query, comment. Then write what the person says.",
    "The mood of the population shifted from positive to negative after the debate on television.",
    "Summarise in a few sentences how opinions are divided and how they change; give shares in per cent.",
    "I do not believe this story. Is there any official statement? Please share a link, not a guess!",
    "I will definitely get vaccinated; I probably will not; I have not decided yet, I am waiting.",
    "The flight was late again and nobody at the airline told us anything. Worst service ever.",
    "Great show tonight! The candidate answered every question, and the audience loved it.",
    "Shares: 25 % positive, 40 % neutral, 35 % negative. Step 3 of 19, 16 people, weight 0.75.",
    "At 08:30 on 12 June 2024 the police confirmed 1,234 reports: 56 were true, 789 were false.",
    "system user assistant model knowledge today date December July 2023",
    '# Instruction\n\n- topic\n- signal\n- person\n\n```json\n{"stance": "deny"}\n```',
    "我不相信这个消息。请问有官方的来源吗？",
    "这是谣言，大家不要转发。支持疫苗的人越来越多。",
    "No lo creo. ¿Dónde está la fuente? Je ne sais pas encore. Ich warte noch ab, größtenteils.",
    "Wow 😀👍 that is huge! 🙏🔥 #breaking @news",
)

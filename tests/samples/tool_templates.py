"""Chat templates that know tools, in the forms of the families that people use, written for these tests."""

TURNS = (
    "{% for message in messages %}{% if message.role == 'tool' %}"
    "{% if loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}"
    "{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}"
    "{% if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% elif message.tool_calls %}{{ '<|im_start|>assistant' }}"
    "{% if message.content %}{{ '\n' + message.content }}{% endif %}"
    "{% for call in message.tool_calls %}{% set call = call.function %}{{ '\n<tool_call>' }}"
    "{{ '\n{\"name\": \"' + call.name + '\", \"arguments\": ' + call.arguments | tojson + '}\n</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}"
    "{% elif message.role != 'system' %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (
    "{% set said = messages[0].content if messages[0].role == 'system' else '' %}"
    "{% if tools %}{{ '<|im_start|>system\n' + (said + '\n\n' if said else '') + '# Tools\n\nIn XML tags:\n<tools>' }}"
    "{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}"
    "{{ '\n</tools>\n\nCall them in XML tags:\n<tool_call>\nJSON\n</tool_call><|im_end|>\n' }}"
    "{% elif said %}{{ '<|im_start|>system\n' + said + '<|im_end|>\n' }}{% endif %}"
) + TURNS
"""As of Qwen2.5 and Qwen3: `<tool_call>` may be a token or not."""
LLAMA = (
    "{{ bos_token }}{% if tools_in_user_message is not defined %}{% set tools_in_user_message = true %}{% endif %}"
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content | trim %}{% set messages = messages[1:] %}"
    "{% else %}{% set said = '' %}{% endif %}"
    "{{ '<|start|>system<|stop|>\n\n' }}{% if tools %}{{ 'Environment: ipython\n' }}{% endif %}"
    "{% if tools and not tools_in_user_message %}{{ 'You have functions.\n\n' }}"
    "{% for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}{% endif %}{{ said + '<|eot|>' }}"
    "{% if tools and tools_in_user_message %}{% set first = messages[0].content | trim %}"
    "{% set messages = messages[1:] %}{{ '<|start|>user<|stop|>\n\nGiven these functions.\n\n' }}"
    "{% for tool in tools %}{{ tool | tojson(indent=4) + '\n\n' }}{% endfor %}{{ first + '<|eot|>' }}{% endif %}"
    "{% for message in messages %}{% if message.role == 'tool' %}{{ '<|start|>ipython<|stop|>\n\n' }}"
    "{{ (message.content | tojson if message.content is iterable else message.content) + '<|eot|>' }}"
    "{% elif 'tool_calls' in message %}"
    "{% if message.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    '{% set call = message.tool_calls[0].function %}{{ \'<|start|>assistant<|stop|>\n\n{"name": "\' + call.name }}'
    "{{ '\", \"parameters\": ' + call.arguments | tojson + '}<|eot|>' }}"
    "{% else %}{{ '<|start|>' + message.role + '<|stop|>\n\n' + message.content | trim + '<|eot|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant<|stop|>\n\n' }}{% endif %}"
)
"""As of Llama 3.1 to 3.3: one call a turn, results as JSON strings."""
MISTRAL = (
    "{{ bos_token }}{% set first = messages[0].role == 'system' %}"
    "{% set said = messages[1:] if first else messages %}"
    "{% set users = said | selectattr('role', 'equalto', 'user') | list %}{% for message in said %}"
    "{% if message.role == 'user' %}{% if tools and message == users[-1] %}"
    "{{ '[AVAILABLE_TOOLS][' }}{% for tool in tools %}{{ tool | tojson }}{{ ', ' if not loop.last }}{% endfor %}"
    "{{ '][/AVAILABLE_TOOLS]' }}{% endif %}"
    "{{ '[INST]' + (messages[0].content + '\n\n' if first and loop.last else '') + message.content + '[/INST]' }}"
    "{% elif message.tool_calls %}{{ '[TOOL_CALLS][' }}{% for call in message.tool_calls %}"
    '{{ \'{"name": "\' + call.function.name + \'", "arguments": \' + call.function.arguments | tojson }}'
    "{% if call.id | length != 9 %}{{ raise_exception('ids have 9 characters') }}{% endif %}"
    "{{ ', \"id\": \"' + call.id + '\"}' }}{{ ', ' if not loop.last else ']' + eos_token }}{% endfor %}"
    "{% elif message.role == 'tool' %}{{ '[TOOL_RESULTS]{\"content\": ' + message.content + ', \"call_id\": \"' }}"
    "{{ message.tool_call_id + '\"}[/TOOL_RESULTS]' }}"
    "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
)
"""As of Mistral Nemo: tools before the last message of the user."""
MISTRAL_TOKENS = (
    "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"
)  # fmt: skip
QWEN_TOKENS = ("<tool_call>", "</tool_call>")
FOREIGN = QWEN.replace('{"name": "', "<function=").replace('", "arguments": ', ">")
"""Calls in a form that is not known."""

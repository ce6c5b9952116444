"""`chat_template: chatml`: OpenAI's Chat Markup Language."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=(
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    reference="https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md",
)

"""`chat_template: llama3`: the text format of Llama 3 Instruct."""

from siredon.data.types import Template

TEMPLATE = Template(
    source=(
        "{% for message in messages %}"
        "{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
        " + message['content'] | trim + '<|eot_id|>' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{% endif %}"
    ),
    reference="https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-3/",
)

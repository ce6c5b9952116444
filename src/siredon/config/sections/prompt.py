"""`type:` of a data set as a mapping: columns and the text around them, for rows of any shape."""

from __future__ import annotations

from siredon.config.fields import Section, Str, planned


class InstructionPrompt(Section):
    """Rows of an instruction and its answer."""

    system_prompt: Str | None = planned("System text of every row.")
    system_format: Str | None = planned("Text around it, with `{system}`.")
    field_system: Str | None = planned("Column of the system text.")
    field_instruction: Str | None = planned("Column of the instruction.")
    field_input: Str | None = planned("Column of what the instruction is about.")
    field_output: Str | None = planned("Column of the answer.")
    format: Str | None = planned("The prompt, with `{instruction}` and `{input}`.")
    no_input_format: Str | None = planned("The prompt of rows without input, with `{instruction}`.")


class PreferencePrompt(Section):
    """Rows of a prompt with a better and a worse answer."""

    field_system: Str | None = planned("Column of the system text.")
    field_prompt: Str | None = planned("Column of the prompt.")
    field_chosen: Str | None = planned("Column of the better answer.")
    field_rejected: Str | None = planned("Column of the worse answer.")
    prompt_format: Str | None = planned("The prompt, with `{system}` and `{prompt}`.")
    chosen_format: Str | None = planned("The better answer, with `{chosen}`.")
    rejected_format: Str | None = planned("The worse answer, with `{rejected}`.")


class KtoPrompt(Section):
    """Rows of a prompt with one answer and whether it is good."""

    field_system: Str | None = planned("Column of the system text.")
    field_prompt: Str | None = planned("Column of the prompt.")
    field_completion: Str | None = planned("Column of the answer.")
    field_label: Str | None = planned("Column that is true where the answer is good.")
    prompt_format: Str | None = planned("The prompt, with `{system}` and `{prompt}`.")
    completion_format: Str | None = planned("The answer, with `{completion}`.")

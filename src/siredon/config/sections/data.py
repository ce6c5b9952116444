"""Which data, in which format, and what of it is learned."""

from __future__ import annotations

import re
import string
from typing import Annotated, Literal

from pydantic import AfterValidator, Discriminator, Tag

from siredon.config.fields import Bool, Float, Int, Section, Str, StrList, key, planned

EosPolicy = Literal["all", "turn", "last", "none"]


_FILE = re.compile(
    r"\.(jsonl?|ndjson|csv|tsv|parquet|txt|md|arrow|zip|tar|tgz)(\.(gz|bz2|xz|zst|lz4|zip))?$", re.IGNORECASE
)


def _places_in(text: str) -> set[str]:
    """What stands in braces, with its conversion and format; `?` where the braces do not match."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        return {"?"}
    return {
        f"{name}{conversion or ''}{spec or ''}" for _, name, spec, conversion in parts if name is not None
    }


def _with_places(*names: str) -> AfterValidator:
    """Holds a text to the places that are filled in it."""
    shown = " and ".join(f"{{{name}}}" for name in names)

    def check(text: str) -> str:
        if not _places_in(text) <= set(names):
            raise ValueError(
                f"expected text with only {shown} in braces; other braces are written {{{{ and }}}}"
            )
        return text

    return AfterValidator(check)


class PromptFormat(Section):
    """`type:` as a mapping: a prompt of your own, around the columns of a row."""

    field_instruction: Str = key("Column of the instruction.", "instruction")
    field_input: Str = key("Column of the input, which may be empty.", "input")
    field_output: Str = key("Column of the answer, which is learned.", "output")
    field_system: Str = key("Column of the system text.", "system")
    system_prompt: Str = key("System text of rows without one.", "")
    system_format: Annotated[Str, _with_places("system")] = key(
        "Where `{system}` stands; left out where there is no system text.", "{system}"
    )
    format: Annotated[Str, _with_places("instruction", "input")] = key(
        "Where `{instruction}` and `{input}` stand; the answer follows.", "{instruction} {input} "
    )
    no_input_format: Annotated[Str, _with_places("instruction")] | None = key(
        "The same for rows without input; default `format`, with nothing for `{input}`.", None
    )
    field_prompt: Str = key("Column of the prompt (preference methods).", "prompt")
    field_chosen: Str = key("Column of the better answer (preference methods).", "chosen")
    field_rejected: Str = key("Column of the worse answer (preference methods).", "rejected")
    field_completion: Str = key("Column of the answer that is judged (`rl: kto`).", "completion")
    field_label: Str = key("Column that says whether it is good: true or false (`rl: kto`).", "label")
    prompt_format: Annotated[Str, _with_places("system", "prompt")] = key(
        "Where `{system}` and `{prompt}` stand (preference methods).", "{prompt}"
    )
    chosen_format: Annotated[Str, _with_places("chosen")] = key(
        "Where `{chosen}` stands (preference methods).", "{chosen}"
    )
    rejected_format: Annotated[Str, _with_places("rejected")] | None = key(
        "Where `{rejected}` stands (preference methods); default as `chosen_format`.", None
    )
    completion_format: Annotated[Str, _with_places("completion")] = key(
        "Where `{completion}` stands (`rl: kto`).", "{completion}"
    )

    @property
    def drops_input(self) -> bool:
        """Whether a column of inputs is named, and `format` has no place for them."""
        return "field_input" in self.model_fields_set and "input" not in _places_in(self.format)

    def lacks(self, name: str, place: str) -> bool:
        """Whether a format, by its key, has no place for a value."""
        text = vars(self)[name]
        return text is not None and place not in _places_in(text)


def _kind_of(value: object) -> str:
    return "mapping" if isinstance(value, (dict, PromptFormat)) else "text"


#: A name, or a mapping; told apart first, so that a wrong value inside a mapping is blamed and not the mapping.
FormatChoice = Annotated[
    Annotated[Str, Tag("text")] | Annotated[PromptFormat, Tag("mapping")], Discriminator(_kind_of)
]


class SourceEntry(Section):
    """Where the rows of a data set come from, and which of them are used."""

    path: Str = key(
        "Local file or folder, address (`https://`, `s3://`, `gs://`, `az://`, `oci://`), or hub id."
    )
    split: Str | None = key("Split, with slices as in `train[:10%]`; default `train`.", None)
    name: StrList = key("Configuration of a hub data set; rows of several follow one another.", ())
    revision: Str | None = key("Branch, tag or commit on the hub.", None)
    data_files: StrList = key("Files inside the folder or hub data set.", ())
    ds_type: Literal["json", "csv", "parquet", "text", "arrow"] | None = key(
        "Kind of the files; default by their ending.", None
    )
    shuffle: Bool = key("Shuffle the rows of this data set by `seed`, before any are left out.", False)
    shards: Int | None = key("Parts into which the shuffled rows are cut; one is used.", None, ge=1)
    shards_idx: Int | None = key("Number of the part that is used, from 0; default 0.", None, ge=0)
    max_samples: Int | None = key("Rows that are used at most: the first ones.", None, ge=1)
    input_transform: Str | None = key(
        "Dotted path of a function applied to each row first; a row for which it returns None is left out.",
        None,
    )
    preprocess_shards: Int | None = key("Pieces prepared one after another, to spare memory.", None, ge=1)
    weight: Float = key(
        "Share of this data set among all, against the weights of the others; needs a `mix_strategy`.",
        1.0,
        gt=0,
    )
    trust_remote_code: Bool = planned(
        "Allow Python code that comes with the data to run; never, as `datasets` runs none.", False
    )

    @property
    def is_local(self) -> bool:
        """Whether `path` can only be a file or folder: it starts like one, or ends like a data file."""
        return self.path.startswith(("/", "./", "../", "~")) or bool(_FILE.search(self.path))


class DatasetEntry(SourceEntry):
    """One entry of `datasets:` or `test_datasets:`."""

    type: FormatChoice = key(
        "Format of the rows: a name, a function of your own by its dotted path, or a mapping with a prompt."
    )
    chat_template: Str | None = key("Template for this data set; default the top-level one.", None)
    field: Str = key("Column of the text (`completion`).", "text")
    field_messages: Str = key("Column of the list of messages (`chat_template`).", "messages")
    message_property_mappings: dict[Str, Str] = key(
        "Property of a message (`role`, `content`) -> its name in the data.", {}
    )
    roles: dict[Str, StrList] = key(
        "Role of the template -> names that the data uses for it; default human/gpt and their like.", {}
    )
    roles_to_train: StrList = key("Roles whose messages are learned.", ("assistant",))
    train_on_eos: EosPolicy = key(
        "Which stop tokens are learned: of every turn, of trained turns, of the last one, or none.", "turn"
    )
    train_on_eot: EosPolicy | None = key("The same for `eot_tokens`; default `train_on_eos`.", None)
    chat_template_jinja: Str | None = key("Text or file of a template for this data set.", None)
    drop_system_message: Bool = key("Leave out a system message at the start.", False)
    field_tools: Str = key("Column of the tools that the model may call.", "tools")
    field_thinking: Str | None = key(
        "Property of a message that holds its reasoning; default `template_thinking_key`.", None
    )
    template_thinking_key: Str = key(
        "Name under which the template expects the reasoning.", "reasoning_content"
    )
    split_thinking: Bool = key("Take the reasoning out of the content, by its `<think>` tags.", False)
    message_field_training: Str | None = key("Property of a message that says whether it is learned.", None)
    message_field_training_detail: Str | None = key(
        "Property of a message that lists ranges of characters and whether each is learned.", None
    )
    logprobs_field: Str | None = planned("Column of the teacher's log-probabilities (distillation).")
    temperature: Float | None = planned("Temperature at which the teacher's were taken (distillation).")
    field_chosen: Str = key("Column of the better answer (preference methods).", "chosen")
    field_rejected: Str = key("Column of the worse answer (preference methods).", "rejected")
    field_completion: Str = key("Column of the answer that is judged (`rl: kto`).", "completion")
    field_label: Str = key("Column that says whether it is good: true or false (`rl: kto`).", "label")
    step_separator: Str = key(
        "Text behind each step of an answer, where it is judged (`stepwise_supervised`).", "\n", min_length=1
    )
    max_completion_length: Int | None = key(
        "Longest answer, in tokens; the rest is cut off (`stepwise_supervised`).", None, ge=1
    )
    train_on_last_step_only: Bool = key("Judge the final step alone (`stepwise_supervised`).", False)
    length: Int = key("Random rows to make up (`_synthetic`).", 1000, ge=1)
    sequence_length: Int | None = key(
        "Tokens per made-up row (`_synthetic`); default `sequence_len`.", None, ge=2
    )
    min_input_id: Int = key("Smallest token id drawn (`_synthetic`).", 100, ge=0)
    max_input_id: Int | None = key(
        "Token ids are drawn below this one (`_synthetic`); default the vocabulary.", None, ge=1
    )
    seed: Int | None = key("Seed of the made-up rows (`_synthetic`); default 0.", None, ge=0)


class DataSection(Section):
    """Sources, preparation and the validation split."""

    datasets: tuple[DatasetEntry, ...] = key("Training data.", (), min_length=1)
    test_datasets: tuple[DatasetEntry, ...] = key("Validation data; excludes `val_set_size`.", ())
    val_set_size: Float = key(
        "Part of the rows held out for validation: a fraction below 1, or a number of rows.", 0.0, ge=0
    )
    dataset_prepared_path: Str = key("Folder of prepared data.", "last_run_prepared")
    sequence_len: Int = key("Longest row, and length of a pack, in tokens.", 512, ge=2)
    excess_length_strategy: Literal["drop", "truncate", "raise"] = key(
        "What happens to rows over `sequence_len`.", "drop"
    )
    excess_length_side: Literal["response", "prompt"] = key(
        "What `truncate` cuts of pairs of answers: the end of an answer, or the beginning of the prompt.",
        "response",
    )
    train_on_inputs: Bool = key("Learn the prompts too, not only the responses.", False)
    shuffle_merged_datasets: Bool = key("Shuffle the rows of all data sets together, by `seed`.", True)
    shuffle_before_merging_datasets: Bool = key("Shuffle each data set by itself first.", False)
    mix_strategy: Literal["concatenate", "first_exhausted", "all_exhausted"] = key(
        "How data sets are mixed: one behind the other, or by `weight`, until the first or the last is used up.",
        "concatenate",
    )
    eval_sequence_len: Int | None = key(
        "Longest validation row, in tokens; default `sequence_len`.", None, ge=2
    )
    min_sample_len: Int | None = key(
        "Shortest row that is kept, in tokens; default 2.", None, ge=1, derived="shortest"
    )
    bad_rows: Literal["error", "drop"] = key(
        "What happens to rows that cannot be read, rendered or labelled; dropped ones are counted.", "error"
    )
    max_prompt_len: Int | None = planned("Longest prompt of preference and online methods, in tokens.")
    dataset_exact_deduplication: Bool = key("Keep one of several equal rows.", False)
    dataset_num_proc: Int | None = planned("Processes that prepare data; default one per CPU core.")
    dataset_keep_in_memory: Bool | None = planned("Hold rows in RAM while they are prepared.")
    num_dataset_shards_to_save: Int | None = planned("Files that the prepared data is spread over.")
    dataset_shard_num: Int | None = planned("Parts into which the prepared rows are cut; one is used.")
    dataset_shard_idx: Int | None = planned("Number of the part that is used, from 0.")
    skip_prepare_dataset: Bool = planned("Tokenize batch by batch while training, not before.", False)
    remove_unused_columns: Bool | None = planned("Drop columns that the model does not take.")

    @property
    def shortest(self) -> int:
        """Tokens of the shortest row that is kept."""
        return 2 if self.min_sample_len is None else self.min_sample_len

    @property
    def is_mixed(self) -> bool:
        """Whether data sets are mixed by weight."""
        return self.mix_strategy != "concatenate"

    @property
    def eval_tokens(self) -> int:
        """Tokens of the longest validation row."""
        return self.eval_sequence_len or self.sequence_len

    @property
    def has_validation(self) -> bool:
        """Whether there are validation rows."""
        return self.val_set_size > 0 or bool(self.test_datasets)

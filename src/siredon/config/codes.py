"""What every code means: the pages of those that are no rule across keys, and all pages together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

from siredon.config.diagnostics import Diagnostic, Place, Severity
from siredon.config.document import MAX_BYTES, MAX_DEPTH, MAX_NODES
from siredon.config.layers import MAX_INCLUDES, read_layers
from siredon.config.load import all_rules, check_document
from siredon.config.overrides import split_words
from siredon.config.rule import Rule, complete_example
from siredon.config.rule_keys import read_keys

#: What the file of an example is called.
EXAMPLE = "config.yml"


class Page(Protocol):
    """What is said of a code, whoever reports it."""

    @property
    def code(self) -> str:
        """`SD` and four digits."""

    @property
    def title(self) -> str:
        """What must hold, in one line."""

    @property
    def reason(self) -> str:
        """Why, and what is meant; may be empty."""

    @property
    def wrong(self) -> str:
        """Lines of YAML for which it is reported; empty if a file alone cannot show it."""

    @property
    def right(self) -> str:
        """Lines like them for which it is not; empty if there are none."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that the examples are about; may be empty."""

    @property
    def portable(self) -> bool:
        """Whether `wrong` is so on any machine, whatever is installed or on disk."""


@dataclass(frozen=True)
class Code:
    """A code that is no rule across keys.

    Args:
        code: Stable code, `SD` and four digits; a code has one meaning for good.
        title: What must hold, in one line.
        reason: Why, and what is meant.
        wrong: Lines of YAML for which it is reported; empty if a file alone cannot show it.
        right: Lines like them for which it is not.
        severity: An error stops a run, a warning does not.
        words: What follows the name of the file on the command line, in both examples.
        keys: The keys that it is about, if it is about some and not about all.
        portable: Whether `wrong` is so on any machine.
        topic: The heading under which it stands.
    """

    code: str
    title: str
    reason: str = ""
    wrong: str = ""
    right: str = ""
    severity: Severity = "error"
    words: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    portable: bool = True
    topic: str = "The file and its keys"


_SWEEP = "The file of a sweep"
_MODEL = "base_model: some/model\n"
_ENTRY = "  - path: {}.jsonl\n    type: alpaca\n"

#: By code.
CODES = (
    Code(
        "SD0001",
        "The file is a YAML mapping.",
        "It is UTF-8 text with lines of `key: value`, indented with spaces. It is not empty, and no larger than a "
        f"configuration can be: {MAX_BYTES:,} bytes, {MAX_DEPTH} levels and {MAX_NODES:,} values, every alias "
        "expanded.",
        wrong="special_tokens:\n\tpad_token: <pad>",
        right="special_tokens:\n  pad_token: <pad>",
    ),
    Code(
        "SD0002",
        "A key stands once in a mapping.",
        "YAML readers disagree on which of two equal keys counts, so neither is taken.",
        wrong=f"{_MODEL}learning_rate: 1e-4\nlearning_rate: 2e-4\ndatasets:\n{_ENTRY.format('rows')}",
        right=f"{_MODEL}learning_rate: 1e-4\ndatasets:\n{_ENTRY.format('rows')}",
    ),
    Code(
        "SD0003",
        "Every key is known.",
        "A key that neither Siredon nor Axolotl knows is mostly a slip of the pen. Passed over, it would leave the "
        "default in place without a word.",
        wrong="micro_batch_sise: 2",
        right="micro_batch_size: 2",
    ),
    Code(
        "SD0004",
        "Every key and value is built.",
        "It is one of Axolotl's that Siredon knows but cannot do yet. What a file asks for is done or refused, never "
        "passed over. Such a key may stand where it asks for nothing: at its default, empty, or `false` where it is "
        "off by default.",
        wrong="deepspeed: zero2.json",
        right="deepspeed:",
    ),
    Code(
        "SD0005",
        "A value is of the kind and in the range of its key.",
        "A number in quotes counts as one where a number may have a fraction (`learning_rate: '2e-4'`), and `4.0` "
        "counts as a whole number. Nothing else is converted.",
        wrong="micro_batch_size: two",
        right="micro_batch_size: 2",
    ),
    Code(
        "SD0006",
        "A word is one of those that its key allows.",
        wrong="lr_scheduler: cosinus",
        right="lr_scheduler: cosine",
    ),
    Code(
        "SD0007",
        "Required keys are set.",
        "They have no default that is right for every run.",
        wrong=f"{_MODEL}datasets:\n{_ENTRY.format('rows')}",
        right=f"{_MODEL}learning_rate: 1e-4\ndatasets:\n{_ENTRY.format('rows')}",
    ),
    Code(
        "SD0008",
        "The file can be read.",
        "It is there, it is a file, and the rights allow reading it.",
    ),
    Code(
        "SD0009",
        "Keys and values have their present names.",
        "An old name works as the new one. `siredon check --fix` writes the new one into the file.",
        wrong="adam_eps: 1e-6",
        right="adam_epsilon: 1e-6",
        severity="warning",
    ),
    Code(
        "SD0010",
        "No key is set that no longer exists.",
        "The fix says what takes its place; mostly, the key can be deleted.",
        wrong="max_packed_sequence_len: 2048",
        right="sample_packing: true\nsequence_len: 2048",
    ),
    Code(
        "SD0011",
        "A key is set under one name.",
        "Its old name and its new one may hold different values; neither is taken for the right one.",
        wrong="adam_eps: 1e-6\nadam_epsilon: 1e-8",
        right="adam_epsilon: 1e-6",
    ),
    Code(
        "SD0012",
        "A file that is included can be.",
        "`include` names files by their paths from the folder of the file that includes them. None includes itself, "
        f"by way of others neither, and there are at most {MAX_INCLUDES}.",
        wrong="include: no/such/file.yml",
        keys=("include",),
    ),
    Code(
        "SD0013",
        "An environment variable that a value names is set.",
        "`${NAME}` in a value stands for the variable, `${NAME:-default}` for it or, where it is not set or empty, "
        "for the default. `$${` is a `${` that means itself.",
        wrong="output_dir: ${NAME_OF_THE_RUN}",
        right="output_dir: ${NAME_OF_THE_RUN:-outputs/first}",
    ),
    Code(
        "SD0014",
        "The place of a setting on the command line is there.",
        "An entry of a list is named by its number, counted from 0; the next number adds one at the end.",
        wrong="datasets:\n" + _ENTRY.format("a"),
        right="datasets:\n" + "".join(map(_ENTRY.format, "abc")),
        words=("datasets.2.path=more.jsonl",),
    ),
    Code(
        "SD0015",
        "Under `strict: true`, the command line changes only keys that the file sets.",
        "So a slip in a script cannot set a key that the file does not speak of.",
        wrong="strict: true",
        right="strict: true\nseed: 1",
        words=("seed=2",),
        keys=("strict",),
    ),
    Code(
        "SD0016",
        "A plugin is an integration of Axolotl's that Siredon knows.",
        "Each integration stands for keys or for a part of Siredon; the configuration reference has a table of them. "
        "Code written for Axolotl cannot be run.",
        wrong="plugins: [axolotl.integrations.ligr.LigerPlugin]",
        right="plugins: [axolotl.integrations.liger.LigerPlugin]",
        keys=("plugins",),
    ),
    Code(
        "SD0017",
        "No key is set that never did anything.",
        "Axolotl reads it from no file either. It is passed over, and the fix says what was probably meant.",
        wrong="torch_dtype: bfloat16",
        right="bf16: true",
        severity="warning",
    ),
    Code(
        "SD0401",
        "A sweep has something to try.",
        "A sweep file has at least one key, a list of values at least one value, and `_` at least one set.",
        topic=_SWEEP,
    ),
    Code(
        "SD0402",
        "A sweep leaves alone what it sets itself.",
        "Each run has a folder of its own and goes on from its own checkpoints. Which files are put together, and "
        "what the command line may change, is settled before a run begins.",
        keys=("output_dir", "auto_resume_from_checkpoints", "resume_from_checkpoint", "include", "strict"),
        topic=_SWEEP,
    ),
    Code(
        "SD0403",
        "A key is swept once.",
        "It stands once in the sweep file, under `_` or beside it, neither whole nor in part on the command line.",
        topic=_SWEEP,
    ),
    Code(
        "SD0404",
        "Under `_` stands a list of sets.",
        "Each is a mapping of keys to values that are tried together: `- {lora_r: 8, lora_alpha: 16}`.",
        topic=_SWEEP,
    ),
    Code(
        "SD0405",
        "A range has `min` and `max`, and may have `log` and `step`.",
        "`{min: 1e-5, max: 1e-3, log: true}`: both ends are numbers, the first below the second. A step leads from "
        "one to the other, and does not go with `log`. A range stands beside `_`, not in one of its sets.",
        topic=_SWEEP,
    ),
    Code(
        "SD0406",
        "A grid has lists and no ranges.",
        "A range has no end of values. `--sweep-runs N` draws N at random; with `--sweep-search optuna` each is "
        "chosen from the losses of those before it.",
        topic=_SWEEP,
    ),
    Code(
        "SD0407",
        "The key of a sweep can be set on the command line.",
        "A run is started with its values as settings, `key=value`. A name with other characters than letters, "
        "digits, `_` and dots cannot stand there.",
        topic=_SWEEP,
    ),
    Code(
        "SD0408",
        "A grid has at most 1,000 runs.",
        "The numbers of values multiply. `--sweep-runs N` takes N of the combinations at random.",
        topic=_SWEEP,
    ),
)


@cache
def all_pages() -> tuple[Page, ...]:
    """The pages of all codes, by code."""
    pages: list[Page] = [*CODES, *all_rules()]
    return tuple(sorted(pages, key=lambda page: page.code))


def find_page(code: str) -> Page | None:
    """The page of a code, whatever the case of its letters; None if there is none."""
    return next((page for page in all_pages() if page.code == code.upper()), None)


def touched_keys(page: Page) -> tuple[str, ...]:
    """The keys that a code is about: those that a rule looks at."""
    return read_keys(page) if isinstance(page, Rule) else page.keys


def words_of(page: Page) -> tuple[str, ...]:
    """What follows the name of the file on the command line of an example."""
    return page.words if isinstance(page, Code) else ()


def check_example(page: Page, lines: str) -> tuple[Diagnostic, ...]:
    """Every problem of an example, in a file that has all that a configuration needs."""
    _, layer = split_words(words_of(page))
    return check_document(read_layers(EXAMPLE, [layer], text=complete_example(lines))).diagnostics


def report_wrong(page: Page) -> tuple[tuple[Diagnostic, ...], tuple[str, ...]]:
    """What is reported for the wrong example, placed as if its lines stood alone; other codes reported beside it."""
    if not page.wrong or not page.portable:
        return (), ()
    found = check_example(page, page.wrong)
    own = tuple(_place_alone(problem, page.wrong) for problem in found if problem.code == page.code)
    return own, tuple(dict.fromkeys(problem.code for problem in found if problem.code != page.code))


def severities_of(page: Page, found: Iterable[Diagnostic]) -> tuple[Severity, ...]:
    """As what it is reported; empty if that cannot be said without knowing the machine."""
    if isinstance(page, Code):
        return (page.severity,)
    return tuple(dict.fromkeys(problem.severity for problem in found))


def _place_alone(problem: Diagnostic, lines: str) -> Diagnostic:
    """A problem of a completed example, as it would be shown if only its own lines were there."""
    if problem.path != EXAMPLE:
        return problem
    added = complete_example(lines).count("\n") - lines.rstrip("\n").count("\n") - 1
    line, column = problem.place
    place = Place(line - added, column) if line > added else Place(1, 1)
    return replace(problem, place=place, text=lines)

"""What the documents say is so: links, codes, configurations, commands, keys, files and names in examples."""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.conftest import ROOT
from typer.main import get_command

from siredon.cli.app import app
from siredon.config.diagnostics import count_text, num_errors, show_text
from siredon.config.document import parse_document
from siredon.config.fields import nested_section
from siredon.config.load import check_document
from siredon.config.schema import KeyInfo, read_fields, section_types

DOCUMENTS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
DOCUMENTS += sorted((ROOT / "docs").rglob("*.md"))
CODE = re.compile(r"\bSD\d{4}\b")
OPTIONS = {"--version", "--help", "--install-completion", "--show-completion"}
COMMANDS = set(get_command(app).commands) | OPTIONS
Found = list[str]


class Block(NamedTuple):
    """A fenced block: what stands behind the fence, and what it holds."""

    info: str
    body: str


def blocks_of(text: str) -> list[Block]:
    return [Block(*found) for found in re.findall(r"^```(.*)\n((?:.*\n)*?)```$", text, re.MULTILINE)]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*\n(?:.*\n)*?```$", "", text, flags=re.MULTILINE)


# Links


def slugs_of(text: str) -> set[str]:
    """The anchors of a page's headings, and its own."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(text), re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)"></a>', text))


def broken_links(path: Path, text: str) -> Found:
    """Relative links to a file or heading that is not there."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_blocks(text)):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        if not target.exists() or (anchor and anchor not in slugs_of(target.read_text())):
            found.append(link)
    return found


# Configurations


def broken_configurations(path: Path, text: str) -> Found:
    """Whole configurations with an error, less those that are marked as wrong."""
    del path
    found = []
    for info, body in blocks_of(text):
        if info == "yaml" and "base_model:" in body:
            problems = check_document(parse_document("config.yml", body)).diagnostics
            if num_errors(problems):
                found.append(show_text(problems))
    return found


def wrong_reports(path: Path, text: str) -> Found:
    """Configurations marked as wrong after which not exactly their report stands."""
    del path
    blocks = blocks_of(text)
    found = []
    for (info, body), shown in itertools.pairwise([*blocks, Block("", "")]):
        if info == "yaml wrong":
            problems = check_document(parse_document("config.yml", body)).diagnostics
            report = f"{show_text(problems)}\n\nconfig.yml: {count_text(problems)}\n"
            if not num_errors(problems) or shown.body != report:
                found.append(report)
    return found


# Commands and keys


def unknown_commands(path: Path, text: str) -> Found:
    """What follows `siredon` at the beginning of a line of code, or after a folder or `-m`, and is no command."""
    del path
    lines = [line for block in blocks_of(text) if not block.info for line in block.body.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", without_blocks(text))
    words = [re.search(r"(?:^|\S/|-m )siredon (\S+)", line) for line in lines]
    return [word.group(1) for word in words if word and word.group(1) not in COMMANDS]


def unbuilt_keys(path: Path, text: str) -> Found:
    """Words in the first column of a table of keys that are no key, or one that does not work."""
    del path
    found = []
    for table in re.findall(r"^\| key[^|]*\|.*\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in table.splitlines():
            names = re.findall(r"`([^`]+)`", row.split("|")[1])
            found += [name for name in names if name not in working_keys()] or ([] if names else [row])
    return found


def working_keys() -> set[str]:
    """Every key that works, top-level or nested."""
    found: set[str] = set()
    waiting = [read_fields(section, home) for home, section in section_types().items()]
    while waiting:
        fields: dict[str, KeyInfo] = waiting.pop()
        for name, info in fields.items():
            if info.status == "works":
                found.add(name)
                section = nested_section(info.field.annotation)
                waiting += [read_fields(section, info.section)] if section else []
    return found


# Examples of code


def unknown_names(path: Path, text: str) -> Found:
    """Names that an example imports from the source, and that are not there."""
    del path
    found = []
    for info, body in blocks_of(text):
        for node in ast.walk(ast.parse(body)) if info == "python" else ():
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("siredon."):
                module = str(node.module)
                there = names_of(ROOT / "src" / f"{module.replace('.', '/')}.py")
                found += [f"{module}.{alias.name}" for alias in node.names if alias.name not in there]
    return found


def names_of(path: Path) -> set[str]:
    """Top-level names of a module; none if there is no such module."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body if path.is_file() else ():
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


RULES: list[Callable[[Path, str], Found]] = [
    broken_links,
    broken_configurations,
    wrong_reports,
    unknown_commands,
    unbuilt_keys,
    unknown_names,
]
LEAST = "base_model: some/model\nlearning_rate: 1e-4\ndatasets:\n  - path: rows.jsonl\n    type: alpaca\n"
REPORT = (
    "config.yml:6:1: error SD0003: unknown key `lora_rank`\n    6 | lora_rank: 8\n      | ^\n"
    "      = fix: Write `lora_r`.\n\nconfig.yml: 1 error\n"
)
KEYS = "| key | meaning |\n|---|---|\n"
#: For each rule what breaks it, and something like it that does not.
EXAMPLES = {
    "broken_links": [
        ("[a](docs/nothing.md)", "[a](docs/errors.md)"),
        ("[a](docs/errors.md#nothing)", "[a](docs/errors.md#corrections)"),
        ("[a](#what-works-tomorrow)", "[a](#what-works-today)"),
    ],
    "broken_configurations": [
        (f"```yaml\n{LEAST}lora_rank: 8\n```\n", f"```yaml\n{LEAST}```\n"),
        ("```yaml\nbase_model: a\n```\n", "```yaml\nlora_rank: 8\n```\n"),
    ],
    "wrong_reports": [
        (
            f"```yaml wrong\n{LEAST}lora_rank: 8\n```\n\n```\n{REPORT} \n```\n",
            f"```yaml wrong\n{LEAST}lora_rank: 8\n```\n\n```\n{REPORT}```\n",
        ),
        (f"```yaml wrong\n{LEAST}```\n", f"```yaml\n{LEAST}```\n"),
    ],
    "unknown_commands": [
        ("```\n.venv/bin/siredon fly x.yml\n```\n", "```\n.venv/bin/siredon train x.yml\n```\n"),
        ("```\ntorchrun -m siredon fly\n```\n", "```\ntorchrun -m siredon train\n```\n"),
        ("Say `siredon fly`.", "Say `siredon --version`, not siredon fly."),
    ],
    "unbuilt_keys": [
        (f"{KEYS}| `seed`, `lora_rank` | a |\n", f"{KEYS}| `seed`, `lora_r` | a |\n"),
        (f"{KEYS}| `qlora_sharded_model_loading` | a |\n", f"{KEYS}| `field_messages` | a |\n"),
        (f"{KEYS}| seed | a |\n", "| kind | a |\n|---|---|\n| `qlora_sharded_model_loading` | a |\n"),
    ],
    "unknown_names": [
        (
            "```python\nfrom siredon.data.types import Text, Texts\n```\n",
            "```python\nfrom siredon.data.types import Text\n```\n",
        ),
        ("```python\nfrom siredon.nothing import x\n```\n", "```python\nfrom nothing import x\n```\n"),
    ],
}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_document_keeps_the_rule(rule: Callable[[Path, str], Found], path: Path):
    assert rule(path, path.read_text()) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_what_breaks_it_and_only_that(rule: Callable[[Path, str], Found]):
    for broken, kept in EXAMPLES[rule.__name__]:
        assert rule(ROOT / "README.md", broken)
        assert rule(ROOT / "README.md", kept) == []


def test_there_is_something_to_look_at():
    texts = {path.name: path.read_text() for path in DOCUMENTS}
    whole = "\n".join(texts.values())
    assert {"README.md", "CONTRIBUTING.md", "architecture.md", "errors.md"} <= set(texts)
    assert sum("base_model:" in body for info, body in blocks_of(whole) if info == "yaml") >= 3
    assert sum(info == "yaml wrong" for info, _ in blocks_of(whole)) >= 2
    assert sum(info == "python" for info, _ in blocks_of(whole)) >= 5
    for name in COMMANDS - OPTIONS:
        assert f"siredon {name}" in texts["README.md"]


def test_every_code_is_explained_once_and_no_other(source: Path):
    used = {code for path in source.rglob("*.py") for code in CODE.findall(path.read_text())}
    headings = re.findall(r"^### (SD\d{4})$", (ROOT / "docs/reference/rules.md").read_text(), re.MULTILINE)
    assert len(used) > 15
    assert sorted(headings) == sorted(used)


def test_every_code_that_a_document_names_exists(source: Path):
    used = {code for path in source.rglob("*.py") for code in CODE.findall(path.read_text())}
    named = {code for path in DOCUMENTS for code in CODE.findall(without_blocks(path.read_text()))}
    assert named <= used


def test_the_tree_of_the_architecture_names_every_file_and_no_other(source: Path):
    paths = [path.relative_to(source) for path in source.rglob("*.py") if path.name != "__init__.py"]
    shelves = (
        "config/sections",
        "data/formats",
        "data/preference_formats",
        "data/judged_formats",
        "data/templates",
        "train/optimizers",
        "train/pair_losses",
        "train/schedules",
        "model/adapters",
        "model/kernels",
        "export/quantizers",
    )  # whose files are words of the YAML
    files = {path.name for path in paths if path.parent.as_posix() not in shelves}
    (tree,) = [
        body for _, body in blocks_of((ROOT / "docs/architecture.md").read_text()) if "pipeline.py" in body
    ]
    assert set(re.findall(r"\w+\.py\b", tree)) == files

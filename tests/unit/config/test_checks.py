from __future__ import annotations

import ast
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.unit.config.texts import DATASETS, MINIMAL, MODEL, accept, check, without_unbuilt

import siredon
from siredon.config.diagnostics import Diagnostic
from siredon.config.load import all_rules
from siredon.config.rule import Rule, complete_example
from siredon.config.schema import key_homes, section_types

SOURCE = Path(siredon.__file__).parent
LORA = "adapter: lora\nlora_r: 8\nlora_alpha: 16\nlora_target_linear: true\n"
VALIDATION = "val_set_size: 0.1\n"
ROWS = "test_datasets:\n  - path: rows.jsonl\n    type: alpaca\n"


@dataclass(frozen=True)
class Case:
    """A text that breaks a rule at `key`, and one like it that does not."""

    code: str
    key: str
    bad: str
    good: str
    start: str = MINIMAL
    severity: str = "error"


CASES = [
    Case("SD0101", "warmup_ratio", "warmup_steps: 0\nwarmup_ratio: 0.1\n", "warmup_ratio: 0.1\n"),
    Case("SD0102", "val_set_size", ROWS + VALIDATION, ROWS + "val_set_size: 0\n"),
    Case("SD0103", "saves_per_epoch", "save_steps: 5\nsaves_per_epoch: 2\n", "saves_per_epoch: 2\n"),
    Case("SD0103", "save_strategy", "save_steps: 5\nsave_strategy: epoch\n", "save_strategy: epoch\n"),
    Case("SD0103", "save_strategy", "saves_per_epoch: 5\nsave_strategy: 'no'\n", "save_strategy: 'no'\n"),
    Case(
        "SD0103",
        "save_strategy",
        "save_steps: 5\nsave_strategy: epoch\n",
        "save_steps: 5\nsave_strategy: steps\n",
    ),
    Case(
        "SD0103",
        "auto_resume_from_checkpoints",
        "auto_resume_from_checkpoints: true\nresume_from_checkpoint: {checkpoint}\n",
        "auto_resume_from_checkpoints: false\nresume_from_checkpoint: {checkpoint}\n",
    ),
    Case(
        "SD0104",
        "evals_per_epoch",
        VALIDATION + "eval_steps: 5\nevals_per_epoch: 2\n",
        VALIDATION + "evals_per_epoch: 2\n",
    ),
    Case(
        "SD0104",
        "eval_strategy",
        VALIDATION + "eval_steps: 5\neval_strategy: epoch\n",
        VALIDATION + "eval_steps: 5\neval_strategy: steps\n",
    ),
    Case("SD0103", "save_strategy", "saves_per_epoch: 0\nsave_strategy: epoch\n", "saves_per_epoch: 0\n"),
    Case(
        "SD0103",
        "save_strategy",
        "saves_per_epoch: 0\nsave_strategy: steps\n",
        "saves_per_epoch: 0\nsave_strategy: 'no'\n",
    ),
    Case(
        "SD0104",
        "eval_strategy",
        VALIDATION + "evals_per_epoch: 0\neval_strategy: epoch\n",
        VALIDATION + "evals_per_epoch: 0\neval_strategy: 'no'\n",
    ),
    Case("SD0105", "fp16", "bf16: true\nfp16: true\n", "bf16: auto\nfp16: true\n"),
    Case("SD0151", "datasets", "seed: 1\n", DATASETS, MODEL),
    Case(
        "SD0152",
        "datasets.0.type",
        "datasets:\n  - path: a\n    type: alpace\n",
        "datasets:\n  - path: a\n    type: alpaca\n",
        MODEL,
    ),
    Case("SD0152", "test_datasets.0.type", ROWS.replace("alpaca", "nothing"), ROWS),
    Case("SD0153", "adapter", LORA.replace("lora_r: 8\n", ""), LORA),
    Case("SD0153", "adapter", LORA.replace("lora_alpha: 16\n", ""), LORA),
    Case("SD0153", "adapter", LORA.replace("linear: true", "linear: false"), LORA),
    Case(
        "SD0153",
        "adapter",
        LORA.replace("linear: true", "modules: []"),
        LORA.replace("linear: true", "modules: [q_proj]"),
    ),
    Case("SD0153", "lora_r", "lora_r: 8\n", "lora_r:\n", severity="warning"),
    Case("SD0154", "eval_steps", "eval_steps: 5\n", "eval_steps: 5\n" + ROWS),
    Case(
        "SD0154",
        "evals_per_epoch",
        "evals_per_epoch: 1\n",
        "evals_per_epoch: 1\n" + VALIDATION,
        severity="warning",
    ),
    Case("SD0154", "eval_strategy", "eval_strategy: epoch\n", "eval_strategy: 'no'\n"),
    Case("SD0155", "save_strategy", "save_strategy: best\n", "save_strategy: best\n" + VALIDATION),
    Case("SD0156", "chat_template", "chat_template: chatmll\n", "chat_template: chatml\n"),
    Case(
        "SD0156",
        "datasets.0.chat_template",
        "    chat_template: no-such\n",
        "    chat_template: tokenizer_default\n",
    ),
    Case(
        "SD0156",
        "test_datasets.0.chat_template",
        ROWS + "    chat_template: no-such\n",
        ROWS + "    chat_template: llama3\n",
    ),
    Case(
        "SD0157",
        "resume_from_checkpoint",
        "resume_from_checkpoint: no/such/folder\n",
        "resume_from_checkpoint: {checkpoint}\n",
    ),
    Case("SD0158", "save_strategy", "save_strategy: steps\n", "save_strategy: steps\nsave_steps: 5\n"),
    Case("SD0158", "save_strategy", "save_strategy: steps\n", "save_strategy: steps\nsaves_per_epoch: 5\n"),
    Case(
        "SD0158",
        "eval_strategy",
        VALIDATION + "eval_strategy: steps\n",
        VALIDATION + "eval_strategy: steps\nevals_per_epoch: 5\n",
    ),
]

#: Code -> the files that report it, and what it means.  A code has one meaning, for good.
OWNERS = {
    "SD0001": ({"config/document.py", "config/fix.py"}, "the YAML itself is broken"),
    "SD0002": ({"config/document.py", "config/fix.py"}, "a key stands twice"),
    "SD0003": ({"config/deal.py"}, "an unknown key"),
    "SD0004": ({"config/report.py"}, "a key or value that is not built yet"),
    "SD0005": ({"config/deal.py", "config/invalid.py"}, "a value of the wrong kind or range"),
    "SD0006": ({"config/invalid.py"}, "a word that is not among the allowed ones"),
    "SD0007": ({"config/invalid.py"}, "a required key is missing"),
    "SD0008": ({"config/document.py"}, "the file cannot be read"),
    "SD0009": ({"config/deal.py"}, "an old name"),
    "SD0010": ({"config/deal.py"}, "a removed key"),
    "SD0011": ({"config/deal.py", "config/fix.py"}, "an old name beside its new one"),
    "SD0012": ({"config/layers.py"}, "a file that cannot be included"),
    "SD0013": ({"config/document.py"}, "an environment variable that is not set"),
    "SD0014": ({"config/layers.py"}, "a setting whose place is not there"),
    "SD0015": ({"config/layers.py"}, "a setting that `strict` forbids"),
    "SD0017": ({"config/deal.py"}, "a key that never did anything"),
    "SD0016": ({"config/plugins.py"}, "an unknown plugin"),
    **{f"SD040{n}": ({"sweep/space.py"}, "a sweep file that cannot be") for n in range(1, 9)},
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> str:
    (tmp_path / "trainer_state.json").write_text("{}")
    return str(tmp_path)


def problems_of(case: Case, text: str, checkpoint: str) -> list[Diagnostic]:
    return list(check(text.replace("{checkpoint}", checkpoint), case.start).diagnostics)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_reports_the_text_that_breaks_it_and_nothing_else(case: Case, checkpoint: str):
    problems = problems_of(case, case.bad, checkpoint)
    assert [(problem.code, problem.key, problem.severity) for problem in problems] == [
        (case.code, case.key, case.severity)
    ]
    assert problems[0].message
    assert problems[0].fix


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_passes_the_text_that_keeps_it(case: Case, checkpoint: str):
    assert problems_of(case, case.good, checkpoint) == []


def test_a_tracker_that_is_not_installed_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch):
    import importlib.util

    from siredon.config.checks import requirements
    from siredon.config.sections.logging import LoggingSection

    (rule,) = [rule for rule in requirements.RULES if rule.code == "SD0159"]
    assert list(rule.check(LoggingSection())) == []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (finding,) = rule.check(LoggingSection(use_tensorboard=True))
    assert "pip install 'siredon[trackers]'" in finding.fix
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert list(rule.check(LoggingSection(use_tensorboard=True))) == []


def test_attention_that_is_not_installed_is_named_with_its_install_command_and_what_there_is():
    from siredon.config.attentions import NEEDS, find_need

    if NEEDS["flash_attention_2"].is_missing:
        (problem,) = check("attn_implementation: flash_attention_2\n").diagnostics
        assert (problem.code, problem.key, problem.severity) == ("SD0687", "attn_implementation", "error")
        assert "`pip install flash-attn --no-build-isolation`" in problem.fix
        assert "`attn_implementation: sdpa`" in problem.fix
    for name in ("flash_attention_3", "flash_attention_4", "xformers", "kernels-community/flash-attn3"):
        need = find_need(name)
        assert need is not None
        if need.is_missing:
            (problem,) = check(f"attn_implementation: {name}\n").diagnostics
            assert f"needs the package {need.package}, which is not installed" in problem.message
            assert f"Install it ({need.install}), or write `attn_implementation: sdpa`" in problem.fix
    accept("attn_implementation: flex_attention\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}-{case.key}")
def test_a_rule_points_at_a_line_of_the_file(case: Case, checkpoint: str):
    (problem,) = problems_of(case, case.bad, checkpoint)
    if case.code != "SD0151":  # what is missing has no line
        assert problem.key.rpartition(".")[2] in problem.line_text


def test_each_lacking_key_of_an_adapter_is_reported():
    problems = check("adapter: lora\n").diagnostics
    assert [problem.code for problem in problems] == ["SD0153"] * 3
    assert {problem.fix.split("`")[1] for problem in problems} == {
        "lora_r: 16",
        "lora_alpha: 16",
        "lora_target_linear: true",
    }


def test_a_warning_alone_lets_the_config_through():
    checked = check("lora_target_linear: true\n")
    assert [problem.severity for problem in checked.diagnostics] == ["warning"]
    assert checked.config is not None


def test_a_misspelt_name_of_a_part_is_reported_with_the_nearest():
    assert "Did you mean `alpaca`?" in check("", MINIMAL.replace("alpaca", "alpace")).diagnostics[0].fix
    assert "Did you mean `chatml`?" in check("chat_template: chatmll\n").diagnostics[0].fix


@pytest.mark.parametrize(
    "text",
    [
        "chat_template: tokenizer_default_fallback_gemma3\n",
        "chat_template: jinja\nchat_template_jinja: x.jinja\n",
        "chat_template_jinja: x.jinja\n",
    ],
)
def test_the_tokenizers_own_template_may_have_another_behind_it_and_one_may_be_written_out(text: str):
    accept(text)


def test_a_fallback_that_is_no_template_is_reported():
    (problem,) = check("chat_template: tokenizer_default_fallback_nope\n").diagnostics
    assert problem.code == "SD0156"


@pytest.mark.parametrize("name", ["ebft_pretrain", "orpo.chat_template"])
def test_a_format_of_the_reference_is_known_and_not_built(name: str):
    (problem,) = check("", MINIMAL.replace("alpaca", name)).diagnostics
    assert (problem.code, problem.edit) == ("SD0152", None)
    assert "known but not built yet" in problem.message


def test_a_format_of_pairs_needs_a_method_that_compares():
    start = MINIMAL.replace("alpaca", "chat_template.default")
    (problem,) = check("", start).diagnostics
    assert (problem.code, problem.key) == ("SD0152", "datasets.0.type")
    assert "rl: dpo" in problem.fix
    accept("rl: dpo\n", start)


@pytest.mark.parametrize("name", ["x" * 300, "~nobody-has-this-name/x"])
def test_a_checkpoint_with_an_impossible_name_is_reported(name: str):
    assert [problem.code for problem in check(f"resume_from_checkpoint: {name}\n").diagnostics] == ["SD0157"]


def test_a_rule_is_passed_over_when_its_section_has_a_wrong_value():
    problems = check("save_steps: x\nsave_strategy: best\n").diagnostics
    assert [problem.code for problem in problems] == ["SD0005"]


def test_rules_of_other_sections_are_checked_beside_wrong_values():
    problems = check("sequence_len: x\nwarmup_steps: 1\nwarmup_ratio: 0.1\n").diagnostics
    assert [problem.code for problem in problems] == ["SD0005", "SD0101"]


# The examples of the rules


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_the_wrong_example_of_a_rule_breaks_it_and_no_other(rule: Rule):
    if rule.portable:
        problems = without_unbuilt(check(start=complete_example(rule.wrong)))
        assert {problem.code for problem in problems} == {rule.code}


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_the_right_example_of_a_rule_has_no_problem(rule: Rule):
    assert without_unbuilt(check(start=complete_example(rule.right))) == []


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.code)
def test_a_rule_has_a_page(rule: Rule):
    assert rule.title.endswith(".")
    assert rule.keys
    assert set(rule.keys) <= set(key_homes())


# Codes


def codes_in_source() -> dict[str, list[str]]:
    """Code -> the files that use it, once for each use; their pages in `codes.py` are none."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(set(SOURCE.rglob("*.py")) - {SOURCE / "config/codes.py"}):
        for node in ast.walk(ast.parse(path.read_text())):
            value = node.value if isinstance(node, ast.Constant) else None
            if isinstance(value, str) and value[:2] == "SD" and value[2:].isdigit():
                found[value].append(path.relative_to(SOURCE).as_posix())
    return dict(found)


def test_every_code_has_two_letters_and_four_digits():
    assert {len(code) for code in codes_in_source()} == {6}


def test_a_code_of_a_rule_is_used_once():
    uses = codes_in_source()
    for rule in all_rules():
        assert rule.code >= "SD0100"
        assert len(uses[rule.code]) == 1
        assert uses[rule.code][0].startswith("config/checks/")


def test_any_other_code_stands_only_where_its_meaning_is():
    uses = {code: set(files) for code, files in codes_in_source().items()}
    others = {code: files for code, files in uses.items() if code not in {rule.code for rule in all_rules()}}
    assert others == {code: files for code, (files, _) in OWNERS.items()}


def test_a_rule_names_sections_that_exist():
    for rule in all_rules():
        assert rule.sections
        assert set(rule.sections) <= set(section_types())


def test_the_least_configuration_breaks_no_rule():
    assert accept().has_validation is False

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT
from typer.testing import CliRunner, Result

from siredon import __version__
from siredon.cli.app import app, main
from siredon.config.json_schema import json_schema
from siredon.config.shelves import FORMATS

GOOD = "base_model: some/model\nlearning_rate: 1e-4\ndatasets:\n  - path: rows.jsonl\n    type: alpaca\n"
VERBS = ["preprocess", "train", "inference", "merge-lora"]


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes `config.yml` into the working folder."""
    monkeypatch.chdir(tmp_path)

    def write_text(text: str) -> str:
        (tmp_path / "config.yml").write_text(text)
        return "config.yml"

    return write_text


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit status of the console script."""
    monkeypatch.setattr(sys, "argv", ["siredon", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


# check


def test_check_of_a_good_file_exits_with_0_and_says_so(write):
    result = invoke("check", write(GOOD))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "config.yml: no problems\n", "")


def test_check_of_a_bad_file_exits_with_1_and_shows_every_problem(write):
    result = invoke("check", write(GOOD + "lerning_rate: 1\nseed: x\n"))
    assert result.exit_code == 1
    assert (
        "config.yml:6:1: error SD0003: unknown key `lerning_rate`\n    6 | lerning_rate: 1\n" in result.stdout
    )
    assert "config.yml:7:7: error SD0005" in result.stdout
    assert result.stdout.endswith("\n\nconfig.yml: 2 errors\n")


def test_check_of_a_file_with_a_warning_exits_with_0_and_shows_it(write):
    result = invoke("check", write(GOOD + "type_of_model: AutoModelForCausalLM\n"))
    assert result.exit_code == 0
    assert "config.yml:6:1: warning SD0009" in result.stdout
    assert result.stdout.endswith("config.yml: 1 warning\n")


def test_check_of_a_missing_file_exits_with_1(write):
    result = invoke("check", "missing.yml")
    assert result.exit_code == 1
    assert "missing.yml:1:1: error SD0008" in result.stdout


@pytest.mark.parametrize("text", ["", "[", "\t", "a: &a [*a]", "- a", "\0"])
def test_check_of_a_broken_file_exits_with_1_and_no_traceback(write, text: str):
    result = invoke("check", write(text))
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert "error SD0001" in result.stdout


def test_check_as_json_prints_only_json(write):
    result = invoke("check", "--format", "json", write(GOOD + "lerning_rate: 1\ntype_of_model: x\n"))
    assert result.exit_code == 1
    rows = json.loads(result.stdout)
    assert [(row["code"], row["severity"], row["line"], row["column"], row["key"]) for row in rows] == [
        ("SD0003", "error", 6, 1, "lerning_rate"),
        ("SD0009", "warning", 7, 1, "type_of_model"),
    ]
    assert {row["file"] for row in rows} == {"config.yml"}


def test_check_of_a_good_file_as_json_is_an_empty_list(write):
    result = invoke("check", write(GOOD), "--format", "json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_check_writes_nothing(write, tmp_path: Path):
    invoke("check", write(GOOD))
    assert [path.name for path in tmp_path.iterdir()] == ["config.yml"]


def test_check_for_github_prints_a_line_per_problem(write):
    result = invoke("check", "--format", "github", write(GOOD + "lerning_rate: 1\nseed: x\n"))
    lines = result.stdout.splitlines()
    assert result.exit_code == 1
    assert [line.split(",title=")[0] for line in lines] == [
        "::error file=config.yml,line=6,col=1",
        "::error file=config.yml,line=7,col=7",
    ]
    assert invoke("check", "--format", "github", write(GOOD)).stdout == ""


def test_check_with_fix_corrects_the_file_and_shows_what_is_left(write, tmp_path: Path):
    result = invoke("check", "--fix", write(GOOD + "lora_rnk: 8  # mine\nseed: x\n"))
    assert result.exit_code == 1
    assert "-lora_rnk: 8  # mine\n+lora_r: 8  # mine\n" in result.stdout
    assert result.stdout.endswith("config.yml: 1 error, 1 warning\n")
    assert (tmp_path / "config.yml").read_text() == GOOD + "lora_r: 8  # mine\nseed: x\n"


def test_a_report_has_colours_on_a_terminal_alone(write, monkeypatch: pytest.MonkeyPatch):
    from siredon.cli.paint import paint_report

    name = write(GOOD + "lerning_rate: 1\n")
    plain = invoke("check", name).stdout
    coloured = CliRunner().invoke(app, ["check", name], color=True).stdout
    assert "\x1b[" not in plain
    assert "\x1b[1mconfig.yml:6:1\x1b[0m: \x1b[31m\x1b[1merror SD0003\x1b[0m: unknown" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint_report(plain) == plain


# Settings on the command line


@pytest.mark.parametrize("verb", ["check", *VERBS])
@pytest.mark.parametrize("words", [["--seed", "x"], ["--seed=x"], ["seed=x"]], ids=" ".join)
def test_every_verb_takes_settings_and_checks_them(
    write,
    verb: str,
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    write(GOOD)
    for line in ([verb, "config.yml", *words], [verb, *words, "config.yml"]):
        assert run_main(monkeypatch, *line) == 1
        shown = capsys.readouterr()
        text = shown.out + shown.err
        assert "command line:1:" in text
        assert "error SD0005: `seed` cannot be 'x'" in text


def test_a_setting_wins_over_the_file(write):
    result = invoke("config", "show", write(GOOD), "--learning-rate", "3e-4", "--format", "json")
    row = {row["key"]: row for row in json.loads(result.stdout)}["learning_rate"]
    assert (row["value"], row["origin"]) == (3e-4, "command line")


def test_an_unknown_option_is_an_unknown_key(write):
    result = invoke("check", write(GOOD), "--lerning-rate", "1")
    assert result.exit_code == 1
    assert "command line:1:12: error SD0003: unknown key `lerning_rate`" in result.stdout
    assert "Did you mean `learning_rate`?" in result.stdout


# config, examples, env


def test_config_show_of_a_bad_file_shows_its_problems(write, monkeypatch, capsys):
    assert run_main(monkeypatch, "config", "show", write(GOOD + "seed: x\n")) == 1
    assert "error SD0005" in capsys.readouterr().err


def test_config_diff_of_a_file_with_itself_is_empty(write):
    name = write(GOOD)
    assert invoke("config", "diff", name, name).stdout == "config.yml and config.yml come to the same\n"
    assert json.loads(invoke("config", "diff", name, name, "--format", "json").stdout) == []


def test_an_example_is_listed_shown_and_copied(tmp_path: Path):
    name = "smollm2/identity-lora-cpu"
    assert name in invoke("examples", "list").stdout
    assert invoke("examples", "show", name).stdout == (ROOT / f"examples/{name}.yml").read_text()
    result = invoke("examples", "copy", name, "--to", str(tmp_path))
    assert result.exit_code == 0
    assert (tmp_path / f"examples/{name}.yml").is_file()


def test_env_shows_versions_and_devices():
    found = json.loads(invoke("env", "--format", "json").stdout)
    assert found["siredon"] == __version__
    assert {"python", "system", "devices", "libraries", "parts", "variables"} <= set(found)


def test_the_schema_of_one_key_can_be_had_as_yaml():
    import yaml

    found = yaml.safe_load(invoke("config-schema", "--field", "datasets.type", "--format", "yaml").stdout)
    (words,) = (set(one["enum"]) for one in found["anyOf"] if "enum" in one)
    assert set(FORMATS.names()) <= words
    assert "bradley_terry.chat_template" in words


def test_a_shell_is_offered_files_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from siredon.cli.options import complete_word

    monkeypatch.chdir(tmp_path)
    (tmp_path / "learn.yml").write_text("")
    (tmp_path / "learn.txt").write_text("")
    (tmp_path / "learned").mkdir()
    assert sorted(complete_word("lear")) == ["learn.yml", "learned/", "learning_rate="]


# The other commands


def test_the_version_is_shown():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"siredon {__version__}\n")


def test_help_names_every_command():
    result = invoke("--help")
    assert result.exit_code == 0
    for name in ("check", "config-schema", "config", "examples", "env", *VERBS):
        assert name in result.stdout


@pytest.mark.parametrize(
    "name",
    ["check", "config-schema", "env", "config show", "config diff", "examples list", "examples copy", *VERBS],
)
def test_every_command_has_help(name: str):
    result = invoke(*name.split(), "--help")
    assert result.exit_code == 0
    assert "Usage: siredon " in result.stdout


def test_the_schema_is_printed_and_nothing_else():
    result = invoke("config-schema")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == json_schema()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["check"],
        ["train"],
        ["check", "a.yml", "b.yml"],
        ["check", "a.yml", "--format", "xml"],
        ["check", "a.yml", "-x"],
        ["config-schema", "--field", "no.such.key"],
        ["config", "diff", "a.yml"],
        ["inference", "a.yml", "--max-new-tokens", "0"],
        ["inference", "a.yml", "--temperature", "-1"],
        ["inference", "a.yml", "--compare"],
        ["inference", "a.yml", "--compare", "--base", "--prompt", "x"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_with_2(arguments: list[str]):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Usage: siredon" in result.stdout + result.stderr


# The console script


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_a_bad_file_with_1_and_every_problem(
    write, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    status = run_main(monkeypatch, verb, write(GOOD + "lerning_rate: 1\nseed: x\n"))
    shown = capsys.readouterr()
    assert status == 1
    assert shown.out == ""
    assert shown.err.startswith("config.yml:6:1: error SD0003")
    assert shown.err.endswith("config.yml: 2 errors\n")
    assert "Traceback" not in shown.err


def test_a_problem_after_the_check_is_shown_with_its_way_out(
    write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    status = run_main(monkeypatch, "merge-lora", write(GOOD + "output_dir: out\n"))
    shown = capsys.readouterr()
    assert status == 1
    assert shown.err.startswith("error: ")
    assert "\n  fix: " in shown.err


def test_main_passes_the_status_of_a_command_on(write, monkeypatch: pytest.MonkeyPatch):
    assert run_main(monkeypatch, "check", write(GOOD)) == 0
    assert run_main(monkeypatch, "check", "missing.yml") == 1
    assert run_main(monkeypatch, "no-such-command") == 2


WITHOUT_TORCH = """
import sys
from siredon.cli.app import main

config = sys.argv[1]
for arguments in (
    ["--help"],
    ["config-schema"],
    ["config-schema", "--field", "datasets"],
    ["check", config, "seed=1"],
    ["config", "show", config],
    ["config", "diff", config, config],
    ["examples", "list"],
    ["train", "missing.yml"],
    ["merge-lora", "missing.yml"],
):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as done:
        assert done.code == (1 if "missing.yml" in arguments else 0), (arguments, done.code)
heavy = {"torch", "transformers", "datasets", "peft", "accelerate", "numpy", "matplotlib"}
sys.stdout.write("heavy: " + " ".join(sorted(heavy & set(sys.modules))))
"""


def test_help_and_check_import_no_heavy_library():
    example = "examples/smollm2/identity-lora-cpu.yml"
    command = [sys.executable, "-c", WITHOUT_TORCH, example]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{example}: no problems" in done.stdout
    assert done.stdout.endswith("heavy: ")


# explain


def test_explain_shows_the_page_of_a_code_and_of_a_key():
    code, key = invoke("explain", "sd0101"), invoke("explain", "lora_r")
    assert (code.exit_code, key.exit_code) == (0, 0)
    assert code.stdout.startswith("SD0101 (error): ")
    assert key.stdout.startswith("lora_r: ")


def test_explain_of_an_unknown_word_exits_with_2_and_names_the_nearest():
    result = invoke("explain", "lerning_rate")
    assert result.exit_code == 2
    assert "learning_rate" in result.stderr


def test_explain_completes_codes_and_keys():
    from siredon.cli.explain import complete_topic

    assert complete_topic("SD010")[:2] == ["SD0101", "SD0102"]
    assert "learning_rate" in complete_topic("learning")

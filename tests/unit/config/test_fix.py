"""`check --fix`, and the forms in which problems leave the program."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from tests.unit.config.texts import MINIMAL, MODEL
from typer.testing import CliRunner, Result

from siredon.cli.app import app, main
from siredon.config import fix
from siredon.config.diagnostics import Diagnostic, Edit, Place, show_github
from siredon.config.fix import correct_text, fix_file
from siredon.config.load import check_config
from siredon.config.names import RENAMED
from siredon.config.schema import key_homes
from siredon.errors import SiredonError

NAME = "config.yml"
TORN = ("SD0001", "SD0002", "SD0011")
SWITCHES = sorted(name for name, rename in RENAMED.items() if rename.value is not None)
MOVED = sorted(
    name
    for name, rename in RENAMED.items()
    if rename.value is None and rename.new in key_homes() and "." not in name
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def codes() -> list[str]:
    return [problem.code for problem in check_config(NAME).diagnostics]


def fix_bytes(raw: bytes) -> bytes:
    """What becomes of a file; it is shown as a difference if something does, and stays so the second time."""
    path = Path(NAME)
    path.write_bytes(raw)
    shown = fix_file(NAME)
    after = path.read_bytes()
    assert bool(shown) == (after != raw)
    assert fix_file(NAME) == ""
    assert path.read_bytes() == after
    return after


def fix_text(text: str, start: str = MINIMAL) -> str:
    """What becomes of further lines."""
    after = fix_bytes((start + text).encode()).decode()
    assert after.startswith(start)
    return after.removeprefix(start)


# What is corrected


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("lr_schedulr: linear\n", "lr_scheduler: linear\n"),
        ("lr_scheduler: linaer\n", "lr_scheduler: linear\n"),
        ("lr_schedulr: linaer\n", "lr_scheduler: linear\n"),
        ("type_of_model: X\n", "model_type: X\n"),
        ("eager_attention: true\n", "attn_implementation: eager\n"),
        ("chat_template: chatmll\n", "chat_template: chatml\n"),
        ("special_tokens:\n  pad_tokn: x\n", "special_tokens:\n  pad_token: x\n"),
        ("special_tokns:\n  pad_tokn: x\n", "special_tokens:\n  pad_token: x\n"),
        ("datasets_: []\n", "datasets_: []\n"),
    ],
)
def test_a_clear_slip_and_an_old_name_are_corrected(before: str, after: str):
    assert fix_text(before) == after


def test_a_slip_in_an_entry_of_a_list_is_corrected():
    start = (
        MODEL + "datasets:\n  - pth: x\n    tipe: alpace\n    # a note\n  - path: y\n    type: completoin\n"
    )
    assert fix_text("", start="") == ""
    assert fix_bytes(start.encode()).decode() == (
        MODEL + "datasets:\n  - path: x\n    type: alpaca\n    # a note\n  - path: y\n    type: completion\n"
    )
    assert codes() == []


def test_every_slip_of_a_file_is_corrected_at_once():
    text = "sedd: 1\nlr_scheduler: cosne\nrevision_of_model: a\nsdp_attention: yes\noutput_dirr: x\n"
    assert fix_text(text) == (
        "seed: 1\nlr_scheduler: cosine\nmodel_revision: a\nattn_implementation: sdpa\noutput_dir: x\n"
    )
    assert codes() == []


@pytest.mark.parametrize("name", MOVED)
def test_every_old_name_is_replaced(name: str):
    # The value may be wrong: that is no reason to keep the name
    assert fix_text(f"{name}: 3\n") == f"{RENAMED[name].new}: 3\n"


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["true", "yes", "True"])
def test_every_old_switch_that_is_on_is_replaced_with_its_value(name: str, value: str):
    rename = RENAMED[name]
    assert fix_text(f"{name}: {value}  # why\n") == f"{rename.new}: {rename.value}  # why\n"


@pytest.mark.parametrize("name", SWITCHES)
def test_an_old_switch_that_is_off_is_left(name: str):
    assert fix_text(f"{name}: false\n") == f"{name}: false\n"


def test_an_old_value_becomes_the_keys_that_it_stands_for():
    assert fix_text("gradient_checkpointing: offload # why\n") == (
        "gradient_checkpointing: true\nactivation_offloading: true # why\n"
    )
    assert fix_text("gradient_checkpointing: 'offload_disk'\n") == (
        "gradient_checkpointing: true\nactivation_offloading: disk\n"
    )


def test_old_keys_of_one_mapping_are_joined():
    start = MODEL + "datasets:\n  - path: rows.jsonl\n    type: chat_template\n"
    text = (
        "    message_field_role: from # why\n    # a note\n    message_field_content: 'a, b'\n    split: x\n"
    )
    assert fix_text(text, start) == (
        "    message_property_mappings: {role: from, content: 'a, b'} # why\n    # a note\n    split: x\n"
    )
    assert codes() == []


def test_old_keys_of_a_mapping_that_is_used_twice_are_joined_once():
    start = MODEL + "datasets:\n  - &one\n    path: a\n    type: chat_template\n"
    text = "    message_field_role: from\n  - <<: *one\n    path: b\n"
    assert fix_text(text, start) == "    message_property_mappings: {role: from}\n  - <<: *one\n    path: b\n"
    assert codes() == []


@pytest.mark.parametrize(
    "text",
    [
        "    message_field_role: a, b\n",
        "    message_field_role: a]\n",
        "    message_field_role: |-\n      from\n",
        "    message_field_role: 'from\n      there'\n",
        "    message_field_role: from\n      there\n",
        "    message_field_role: &x from\n",
        "    message_field_role: from\n    message_field_content: value # a note that would go\n",
        "    message_field_role: from\n  - <<: *one\n    path: b\n    message_field_content: value\n",
    ],
)
def test_old_keys_that_would_not_mean_the_same_are_not_joined(text: str):
    start = MODEL + "datasets:\n  - &one\n    path: a\n    type: chat_template\n"
    assert fix_text(text, start) == text


# What is left


@pytest.mark.parametrize(
    "text",
    [
        "",
        "seed: 1\n",
        "zzzzqqqq: 1\n",
        "adam_beta: 0.5\n",  # there are three
        "lr_scheduler: quux\n",
        "seed: x\n",
        "seed: 1\nsedd: 2\n",  # what it is a slip of stands there
        "seed: 1\nseed: 2\n",
        "model_type: A\ntype_of_model: B\n",
        "warmup_steps: 1\nwarmup_ratio: 0.1\n",
        "use_ray: true\n",
        "merge_lora: true\n",
        "eager_attention: maybe\n",
        "lr_scheduler: !!str cosne\n",
        "lr_scheduler: |-\n  cosne\n",
        'lr_scheduler: "cos\\x6ee"\n',
        "lr_scheduler: cosne\n  x\n",
        "? type_of_model\n: X\n",
        '"type_of\\x5fmodel": X\n',
        "lr_scheduler: ${SIREDON_TEST_MISSING:-cosne}\n",
        "plugins: [axolotl.integrations.ligre]\n",
    ],
)
def test_what_is_right_or_unclear_stays_as_it_is(text: str):
    assert fix_text(text) == text


def test_of_two_slips_of_one_key_one_is_left():
    after = fix_text("sedd: 1\nseeed: 2\n")
    assert sorted(after.splitlines()) in (["sedd: 1", "seed: 2"], ["seed: 1", "seeed: 2"])
    assert codes() == ["SD0003"]


@pytest.mark.parametrize("torn", ["seed: 1\nseed: 2\n", "model_type: A\ntype_of_model: B\n", "? [a]\n: 1\n"])
def test_a_problem_without_a_correction_does_not_keep_the_others(torn: str):
    assert fix_text(torn + "output_dirr: x\n") == torn + "output_dir: x\n"


def test_a_correction_that_does_not_fit_does_not_keep_the_others():
    # In braces, a value cannot become two lines
    text = (
        "{base_model: a/b, learning_rate: 1, datasets: [{path: x, type: alpaca}],"
        " gradient_checkpointing: offload, sedd: 1}\n"
    )
    assert fix_bytes(text.encode()).decode() == text.replace("sedd", "seed")


@pytest.mark.parametrize(
    "text", ["", "a: [\n", "- a\n", "\ta: 1\n", "&a x: *a\n", "lerning_rate: 1\n---\na: 1\n"]
)
def test_a_file_that_cannot_be_read_as_yaml_stays_as_it_is(text: str):
    assert fix_bytes(text.encode()) == text.encode()


@pytest.mark.parametrize("raw", [b"\xff\xfe", b"sedd: \xe4\n", b"sedd: 1\n" * 200_000, b"\x00"])
def test_a_file_that_is_no_text_stays_as_it_is(raw: bytes):
    assert fix_bytes(raw) == raw


@pytest.mark.parametrize("name", ["missing.yml", ".", "x" * 5000])
def test_what_is_no_file_is_left(name: str):
    assert fix_file(name) == ""
    assert not Path("missing.yml").exists()


def test_an_included_file_is_left_and_the_file_itself_corrected():
    Path("base.yml").write_text(MINIMAL + "lr_schedulr: linear\n")
    assert fix_text("include: base.yml\nsedd: 1\n", start="") == "include: base.yml\nseed: 1\n"
    assert "lr_schedulr" in Path("base.yml").read_text()
    assert codes() == ["SD0003"]


def test_a_slip_of_a_key_that_the_included_file_sets_is_left():
    Path("base.yml").write_text(MINIMAL + "seed: 1\n")
    assert fix_text("include: base.yml\nsedd: 2\n", start="") == "include: base.yml\nsedd: 2\n"


# What stays around a correction


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("sedd: 1 # sedd\n", "seed: 1 # sedd\n"),
        ("# sedd: 1\nsedd: 1\n\n\n# end", "# sedd: 1\nseed: 1\n\n\n# end"),
        ("sedd:    1   \n", "seed:    1   \n"),
        ("sedd :\t1\n", "seed :\t1\n"),
        ("sedd:\n   1\n", "seed:\n   1\n"),
        ("'sedd': 1\n", "'seed': 1\n"),
        ('"sedd" : 1\n', '"seed" : 1\n'),
        ("lr_scheduler: 'cosne'\n", "lr_scheduler: 'cosine'\n"),
        ('lr_scheduler: "cosne" # "cosne"\n', 'lr_scheduler: "cosine" # "cosne"\n'),
        ("lr_scheduler:\n    cosne\n", "lr_scheduler:\n    cosine\n"),
        ("lr_scheduler:\tcosne\t# x\n", "lr_scheduler:\tcosine\t# x\n"),
        ('"eager_attention" :  yes # why\n', "attn_implementation: eager # why\n"),
        ("sedd: 1", "seed: 1"),
        ("lr_scheduler: cosne", "lr_scheduler: cosine"),
        ("sdp_attention: true", "attn_implementation: sdpa"),
        ("special_tokens: {pad_tokn: x,eos_tokn: y}\n", "special_tokens: {pad_token: x,eos_token: y}\n"),
        ("special_tokens: {'pad_tokn':x}\n", "special_tokens: {'pad_token':x}\n"),
        ("sedd: 1\n...\n", "seed: 1\n...\n"),
        (
            "# ä漢\U0001f600\noutput_dir: ä漢\nsedd: 1 # ä\n",
            "# ä漢\U0001f600\noutput_dir: ä漢\nseed: 1 # ä\n",
        ),
        ("{'ä漢': 1, sedd: 2}\n", None),
    ],
)
def test_comments_quotes_and_layout_stay(before: str, after: str | None):
    if after is None:  # Characters before a place are counted, not bytes
        before = (
            "{output_dir: 'ä漢\U0001f600', base_model: x, learning_rate: 1, lr_scheduler: linaer, sedd: 2}\n"
        )
        assert fix_text(before, "") == before.replace("linaer", "linear").replace("sedd", "seed")
        return
    assert fix_text(before) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "{sedd: 1, lr_scheduler: cosne, output_dirr: x}\n",
            "{seed: 1, lr_scheduler: cosine, output_dir: x}\n",
        ),
        ("{eager_attention: true, sedd: 1}\n", "{attn_implementation: eager, seed: 1}\n"),
        ('{"sedd":1,"lr_scheduler":"cosne"}\n', '{"seed":1,"lr_scheduler":"cosine"}\n'),
        ("{lr_scheduler: cosne}\n", "{lr_scheduler: cosine}\n"),
        ("{type_of_model: A, revision_of_model: b}\n", "{model_type: A, model_revision: b}\n"),
    ],
)
def test_several_slips_in_one_line_of_braces_are_corrected(before: str, after: str):
    assert fix_text(before, start="") == after


def test_the_value_of_an_anchor_is_left_and_the_key_of_one_is_corrected():
    text = "special_tokens: &x {pad_tokn: a}\nmodel_config: *x\n"
    assert fix_text(text) == text.replace("pad_tokn", "pad_token")
    assert fix_text("lr_scheduler: &x cosne\nsedd: 1\n") == "lr_scheduler: &x cosne\nseed: 1\n"


def test_a_slip_that_is_merged_into_several_places_is_corrected_where_it_stands():
    start = MODEL + "datasets:\n  - &one {path: a, type: alpace}\n  - {<<: *one, path: b}\n  - *one\n"
    assert fix_bytes(start.encode()).decode() == start.replace("alpace", "alpaca")
    assert codes() == []


def test_a_word_that_yaml_reads_otherwise_gets_quotes():
    assert fix_text("save_strategy: noo\n") == 'save_strategy: "no"\n'
    assert codes() == []
    assert fix_text("save_strategy: 'noo'\n") == "save_strategy: 'no'\n"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_the_byte_order_mark_stay(end: str, mark: bytes):
    text = (
        MINIMAL
        + "# note\nsedd: 1\neager_attention: true\ngradient_checkpointing: offload\nlr_scheduler: cosne"
    )
    fixed = (
        MINIMAL + "# note\nseed: 1\nattn_implementation: eager\n"
        "gradient_checkpointing: true\nactivation_offloading: true\nlr_scheduler: cosine"
    )
    after = fix_bytes(mark + text.replace("\n", end).encode())
    assert after.startswith(mark + b"base_model")
    assert after.count(b"\r\n" if end == "\r\n" else end.encode()) >= text.count("\n")
    assert after.removeprefix(mark).decode().splitlines() == fixed.splitlines()
    if end != "\r":
        assert after == mark + fixed.replace("\n", end).encode()


def test_joined_keys_keep_their_line_ends():
    start = (MODEL + "datasets:\n  - path: a\n    type: chat_template\n").replace("\n", "\r\n")
    after = fix_bytes(f"{start}    message_field_role: a\r\n    message_field_content: b\r\n".encode())
    assert after.decode() == f"{start}    message_property_mappings: {{role: a, content: b}}\r\n"


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85"])
def test_signs_that_yaml_takes_for_line_ends_are_no_traceback(sign: str):
    after = fix_text(f"# a{sign}# b{sign}sedd: 1{sign}lr_scheduler: cosne\n")
    assert after == f"# a{sign}# b{sign}seed: 1{sign}lr_scheduler: cosine\n"


# The file itself


def test_the_rights_of_the_file_stay(folder: Path):
    path = folder / NAME
    path.write_text(MINIMAL + "sedd: 1\n")
    path.chmod(0o640)
    assert fix_file(NAME)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_and_the_file_behind_it_is_corrected(folder: Path):
    (folder / "deep").mkdir()
    (folder / "deep/real.yml").write_text(MINIMAL + "sedd: 1\n")
    (folder / NAME).symlink_to("deep/real.yml")
    assert fix_file(NAME)
    assert (folder / NAME).is_symlink()
    assert (folder / "deep/real.yml").read_text() == MINIMAL + "seed: 1\n"
    assert sorted(path.name for path in folder.rglob("*")) == [NAME, "deep", "real.yml"]


def test_the_home_folder_is_understood(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(folder))
    (folder / NAME).write_text(MINIMAL + "sedd: 1\n")
    assert fix_file(f"~/{NAME}")
    assert (folder / NAME).read_text() == MINIMAL + "seed: 1\n"


def test_a_file_without_a_slip_is_not_even_written(folder: Path):
    path = folder / NAME
    path.write_text(MINIMAL)
    os.utime(path, (1, 1))
    number = path.stat().st_ino
    assert fix_file(NAME) == ""
    assert (path.stat().st_mtime, path.stat().st_ino) == (1, number)
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize("step", ["replace", "chmod"])
def test_a_file_that_cannot_be_written_stays_whole_and_nothing_is_left_beside_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (folder / NAME).write_text(MINIMAL + "sedd: 1\n")
    monkeypatch.setattr(fix.os, step, refuse)
    with pytest.raises(SiredonError, match=r"config\.yml: Permission denied"):
        fix_file(NAME)
    assert (folder / NAME).read_text() == MINIMAL + "sedd: 1\n"
    assert list(folder.iterdir()) == [folder / NAME]


def test_a_pipe_has_no_file_to_correct(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    reading, writing = os.pipe()
    os.write(writing, (MINIMAL + "sedd: 1\n").encode())
    os.close(writing)
    monkeypatch.setattr(sys, "argv", ["siredon", "check", "--fix", f"/dev/fd/{reading}"])
    with pytest.raises(SystemExit) as caught:
        main()
    os.close(reading)
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith("error: the corrections cannot be written into ")


# What is shown


def test_the_difference_names_the_file_and_shows_the_lines():
    Path(NAME).write_text(MINIMAL + "sedd: 1\nadam_beta: 1\n")
    assert fix_file(NAME) == (
        "--- config.yml before\n+++ config.yml after\n@@ -5,3 +5,3 @@\n"
        "     type: alpaca\n-sedd: 1\n+seed: 1\n adam_beta: 1\n"
    )


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


def test_the_command_shows_the_difference_and_what_is_left():
    Path(NAME).write_text(MINIMAL + "sedd: x\n")
    result = check("--fix", NAME)
    assert result.exit_code == 1
    assert result.stdout.startswith("--- config.yml before\n")
    assert "+seed: x\n\nconfig.yml:6:7: error SD0005: `seed`" in result.stdout
    Path(NAME).write_text(MINIMAL + "sedd: 1\n")
    result = check("--fix", NAME)
    assert result.exit_code == 0
    assert result.stdout.endswith("+seed: 1\n\nconfig.yml: no problems\n")


def test_the_command_says_that_there_is_nothing_to_correct():
    Path(NAME).write_text(MINIMAL)
    result = check("--fix", NAME)
    assert result.exit_code == 0
    assert result.stdout == "config.yml: nothing that can be corrected by itself\nconfig.yml: no problems\n"


def test_the_command_without_fix_changes_nothing():
    Path(NAME).write_text(MINIMAL + "sedd: 1\n")
    assert check(NAME).exit_code == 1
    assert Path(NAME).read_text() == MINIMAL + "sedd: 1\n"


@pytest.mark.parametrize("text", ["sedd: 1\n", "sedd: x\n", "", "adam_beta: 1\n"])
def test_the_command_prints_json_only_when_asked_for_json(text: str):
    Path(NAME).write_text(MINIMAL + text)
    result = check("--fix", "--format", "json", NAME)
    rows = json.loads(result.stdout)
    assert result.exit_code == bool(rows)
    assert [row["code"] for row in rows] == codes()
    assert "sedd" not in Path(NAME).read_text()


def test_the_command_prints_annotations_only_when_asked_for_them():
    Path(NAME).write_text(MINIMAL + "sedd: x\n")
    lines = check("--fix", "--format", "github", NAME).stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["::error"]


def test_a_slip_of_the_command_line_is_not_written_into_the_file():
    Path(NAME).write_text(MINIMAL + "sedd: 1\n")
    result = check("--fix", NAME, "--lr-scheduler", "cosne")
    assert result.exit_code == 1
    assert Path(NAME).read_text() == MINIMAL + "seed: 1\n"
    assert "command line:1:" in result.stdout


def test_a_missing_file_is_reported_and_not_made():
    result = check("--fix", "missing.yml")
    assert result.exit_code == 1
    assert "error SD0008" in result.stdout
    assert not Path("missing.yml").exists()


# Never worse


slips = some.sampled_from(
    [
        "sedd: 1",
        "lr_scheduler: cosne",
        "type_of_model: X",
        "sdp_attention: true",
        "eager_attention: true",
        "gradient_checkpointing: offload",
        "rope_scaling: {type: linear, factor: 2.0}",
        "special_tokens: {pad_tokn: x}",
        "  x: 1",
        "seed: 1",
        "seed: 2",
        "save_strategy: noo",
        "revision_of_model: &r main",
        "model_revision: *r",
        "{a: b}",
        "optimizr: adamw_torc",
        "'output_dirr': \"x\" # y",
        "adapterr: lora",
        "model_config: {a: 1}",
        "flash_attention: true",
        "- sedd",
        "test_datasets: [{pth: x, tipe: alpace, message_field_role: y}]",
    ]
)


@settings(max_examples=40, deadline=None)
@given(some.lists(slips, min_size=1, max_size=6), some.sampled_from(["\n", "\r\n", "\n\n", " # z\n"]))
def test_no_file_is_made_worse(tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str):
    path = tmp_path_factory.mktemp("slips") / NAME
    path.write_text(MINIMAL + end.join(lines) + end, newline="")
    before = check_config(str(path))
    fix_file(str(path))
    after = check_config(str(path))
    assert fix_file(str(path)) == ""
    assert after.report.document.whole == before.report.document.whole
    for kinds in (TORN, ("SD0003",)):
        found = [sum(problem.code in kinds for problem in checked.diagnostics) for checked in (before, after)]
        assert found[1] <= found[0]
    if before.config is not None:  # Old names: the text is another, and means the same
        assert after.config == before.config


def test_an_edit_that_no_longer_fits_the_text_changes_nothing():
    for edit in (
        Edit(Place(9, 1), "a", "b", "key"),
        Edit(Place(1, 9), "a", "b", "key"),
        Edit(Place(1, 1), "x", "b", "key"),
        Edit(Place(1, 1), "a", "b", "value"),
        Edit(Place(1, 4), "a", "b", "key"),
        Edit(Place(1, 1), "aa", "b", "switch"),
    ):
        problem = Diagnostic("SD0003", "error", "m", "f", "a", "p", edit.place, "", edit)
        assert correct_text("a: ab\n", [problem]) == "a: ab\n"


# For GitHub Actions


def problem_of(path: str = NAME, message: str = "it is wrong", cure: str = "Mend it.") -> Diagnostic:
    return Diagnostic("SD0003", "error", message, cure, "key", path, Place(2, 7))


def test_an_annotation_names_severity_place_code_cause_and_way_out():
    assert show_github([problem_of()]) == (
        "::error file=config.yml,line=2,col=7,title=SD0003::it is wrong. Fix: Mend it."
    )


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("a,b.yml", "a%2Cb.yml"),
        ("c:/d.yml", "c%3A/d.yml"),
        ("100%.yml", "100%25.yml"),
        ("a\nb.yml", "a%0Ab.yml"),
        ("a\rb.yml", "a%0Db.yml"),
        ("a::error b=c.yml", "a%3A%3Aerror b=c.yml"),
        ("%0A.yml", "%250A.yml"),
        ("ä b.yml", "ä b.yml"),
    ],
)
def test_a_file_name_cannot_end_its_property(path: str, shown: str):
    assert show_github([problem_of(path)]) == (
        f"::error file={shown},line=2,col=7,title=SD0003::it is wrong. Fix: Mend it."
    )


def test_a_message_cannot_end_its_line():
    shown = show_github([problem_of(message="50 %\n::error::x, y: z\r", cure="100%")])
    assert shown.splitlines() == [shown]
    assert shown.endswith("::50 %25%0A::error::x, y: z%0D. Fix: 100%25")


def test_each_problem_is_a_line_and_none_is_nothing():
    assert show_github([]) == ""
    warning = Diagnostic("SD0009", "warning", "m", "f", "k", "command line", Place(1, 1))
    lines = show_github([problem_of(), warning]).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error", "::warning"]
    assert "file=command line,line=1,col=1" in lines[1]


def test_the_command_annotates_and_exits_as_ever():
    Path("a,b.yml").write_text(MINIMAL + "lerning_rate: 1\n")
    result = check("a,b.yml", "--format", "github")
    assert result.exit_code == 1
    assert result.stdout.startswith("::error file=a%2Cb.yml,line=6,col=1,title=SD0003::unknown key")
    Path(NAME).write_text(MINIMAL)
    result = check(NAME, "--format", "github")
    assert (result.exit_code, result.stdout) == (0, "")

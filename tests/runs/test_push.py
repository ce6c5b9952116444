"""A run, its card, and its way to a hub that is on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from safetensors import safe_open
from tests.conftest import ROOT
from tests.hub import TOKEN, Hub, ask_hub, serve_hub

from siredon import pipeline, release
from siredon.config.artifact import load_target
from siredon.config.load import load_config
from siredon.errors import HubError, UnreachableError
from siredon.export.push_wanted import Push
from siredon.export.uploads import Uploads, open_uploads

LORA = {"adapter": "lora", "lora_r": 4, "lora_alpha": 8, "lora_target_linear": True, "val_set_size": 0.2}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve_hub() as served:
        ask_hub(monkeypatch, served)
        yield served


@pytest.fixture(scope="module")
def trained(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with an adapter."""
    import yaml

    folder = tmp_path_factory.mktemp("trained")
    rows = (ROOT / "examples/smollm2/identity.jsonl").read_text().splitlines()[:24]
    (folder / "talks.jsonl").write_text("\n".join(rows) + "\n")
    values = {
        "base_model": str(model_folder),
        "datasets": [{"path": str(folder / "talks.jsonl"), "type": "chat_template"}],
        "dataset_prepared_path": str(folder / "prepared"),
        "sequence_len": 256,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "bf16": False,
        "logging_steps": 1,
        "output_dir": str(folder / "my-run"),
        **LORA,
    }
    (folder / "run.yml").write_text(yaml.safe_dump(values))
    config, _ = load_config(str(folder / "run.yml"))
    pipeline.train(config)
    return folder / "my-run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "my-run", symlinks=True))


def push(folder: Path, *, repo: str | None = "mine", **words: Any) -> None:
    config, _ = load_target(str(folder))
    release.push(config, Push(repo, **words))


# The card


def test_a_run_ends_with_a_card_that_the_hub_reads(run: Path, model_folder: Path):
    text = (run / "README.md").read_text()
    card = ModelCard.load(run / "README.md")
    assert card.data.to_dict() == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["siredon", "lora"],
    }
    record = json.loads((run / "run.json").read_text())
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["eval_loss"] for line in lines if "eval_loss" in line]
    counts = record["data"]["counts"][0]
    for said in (
        f"A LoRA adapter for `{model_folder.name}`",
        f"| validation, first | 0 | {losses[0]:.4f} |",
        f"| validation, last and best | 2 | {min(losses):.4f} |",
        "![Loss over the steps of the run](loss.png)",
        f"| `talks.jsonl` | 24 | {counts['num_tokens']:,} | {counts['num_targets']:,} | unknown |",
        "rank 4, alpha 8, on all linear layers",
        f"- base, `{model_folder.name}`: unknown",
        f"transformers {record['versions']['transformers']}",
        "\nlora_r: 4\n",
    ):
        assert said in text, said
    for place in (str(model_folder.parent), str(run.parent), record["folder"], str(Path.home())):
        assert place not in text
    assert "has not ended" not in text


def test_a_card_that_was_changed_by_hand_is_left_and_that_is_said(
    run: Path, capfd: pytest.CaptureFixture[str]
):
    config, _ = load_target(str(run))
    card = run / "README.md"
    ours = card.read_text()
    release.card(config)
    assert card.read_text() == ours
    card.write_text(ours.replace("# my-run", "# My model"))
    release.card(config)
    assert "# My model" in card.read_text()
    assert "was changed by hand, and is left" in capfd.readouterr().err
    release.card(config, force=True)
    assert card.read_text() == ours


@pytest.mark.filterwarnings("ignore:.*save_embedding_layers")
def test_a_merged_model_has_a_card_of_its_own_and_a_changed_one_outlives_the_next_merge(run: Path):
    config, _ = load_target(str(run))
    release.merge_lora(config)
    text = (run / "merged" / "README.md").read_text()
    report = json.loads((run / "merged" / "merge.json").read_text())["verified"]
    data = ModelCard.load(run / "merged" / "README.md").data
    assert data.library_name == "transformers"
    assert "# my-run (merged)" in text
    assert f"| {report['kl']:.2g} |" in text
    assert f"| {100 * report['same_token']:.2f} % |" in text
    assert "validation, last" in text  # of the run
    (run / "merged" / "README.md").write_text("# By hand\n")
    release.merge_lora(config)
    assert (run / "merged" / "README.md").read_text() == "# By hand\n"


def test_no_card_of_peft_is_left_in_checkpoints(run: Path):
    assert list(run.glob("checkpoint-*"))
    assert not list(run.glob("checkpoint-*/README.md"))


# Pushing


def test_what_belongs_to_an_adapter_is_sent_and_nothing_else(
    run: Path, hub: Hub, model_folder: Path, capfd: pytest.CaptureFixture[str]
):
    push(run)
    shown = capfd.readouterr()
    repo = hub.repos["ada/mine"]
    assert repo.private
    assert set(repo.files) == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"),
        *("generation_config.json", "loss.png", "tokenizer.json", "tokenizer_config.json"),
    }
    assert repo.files["adapter_model.safetensors"] == (run / "adapter_model.safetensors").read_bytes()
    settings = json.loads(repo.files["adapter_config.json"])
    assert settings["base_model_name_or_path"] == model_folder.name
    assert "can name its base only as" in shown.err
    assert 'name = "ada/mine"' in repo.files["README.md"].decode()
    before, _, after = shown.out.partition("to ada/mine: made now, private")
    assert f"in {len(repo.files)} files" in before
    assert "left here: checkpoint-2, latest," in before
    assert after.strip().startswith("sent: http")
    # Once more: nothing is sent twice
    asked = dict(hub.asked)
    push(run)
    assert "there already, private" in capfd.readouterr().out
    assert hub.asked["commit"] == 1
    assert {name: count for name, count in hub.asked.items() if name.startswith("PUT")} == {
        name: count for name, count in asked.items() if name.startswith("PUT")
    }


def test_public_is_only_what_somebody_says_is_public(run: Path, hub: Hub, capfd: pytest.CaptureFixture[str]):
    push(run, repo="open", public=True)
    assert not hub.repos["ada/open"].private
    num_commits = hub.asked["commit"]
    with pytest.raises(HubError, match="is public: everybody would see"):
        push(run, repo="open")
    assert hub.asked["commit"] == num_commits
    push(run, repo="closed")
    push(run, repo="closed", public=True)
    assert hub.repos["ada/closed"].private
    assert "is there and private, and stays so" in capfd.readouterr().err


def test_a_branch_is_made_and_main_stays(run: Path, hub: Hub):
    push(run)
    (run / "chat_template.jinja").write_text("{{ messages }}")
    push(run, revision="second")
    repo = hub.repos["ada/mine"]
    assert repo.branches["second"]["chat_template.jinja"] == b"{{ messages }}"
    assert repo.files["chat_template.jinja"] != b"{{ messages }}"


def test_after_a_cut_only_what_is_missing_is_sent(run: Path, hub: Hub):
    sizes = {path.name: path.stat().st_size for path in run.iterdir() if path.is_file()}
    assert sizes["adapter_model.safetensors"] > sizes["tokenizer.json"] + 1
    hub.cuts_from = sizes["adapter_model.safetensors"]
    with pytest.raises(UnreachableError, match="the upload broke off"):
        push(run)
    assert hub.repos["ada/mine"].files == {}  # No half of a model
    arrived = {f"PUT {oid}" for oid in hub.objects}
    assert arrived
    counts = {name: hub.asked[name] for name in arrived}
    hub.cuts_from = None
    push(run)
    assert {name: hub.asked[name] for name in arrived} == counts
    assert hub.repos["ada/mine"].files["adapter_model.safetensors"]


def test_a_dry_run_says_all_and_asks_nothing(run: Path, hub: Hub, capfd: pytest.CaptureFixture[str]):
    push(run, dry_run=True)
    assert not hub.asked
    shown = capfd.readouterr().out
    assert "adapter_model.safetensors" in shown
    assert "to mine: private if it is made; a dry run, nothing is sent" in shown


def test_a_secret_stops_the_upload_by_file_and_line(run: Path, hub: Hub):
    (run / "README.md").write_text("# Mine\n\nload it with\nmy_token = 'hf_abcdefghijklmnopqrstuv'\n")
    (run / "modeling_mine.py").write_text(f"URL = 'x'\nKEY = '{TOKEN}'\npassword = password or None\n")
    with pytest.raises(HubError) as caught:
        push(run)
    assert "README.md:4" in str(caught.value)
    assert "modeling_mine.py:2" in str(caught.value)
    assert ":3" not in str(caught.value)
    assert "hf_" not in str(caught.value)
    assert not hub.asked


@pytest.mark.parametrize(
    ("token", "repo", "message", "fix"),
    [
        ("", "mine", "there is no token of the hub", "hf auth login"),
        ("hf_wrongwrongwrongwrongwrong", "mine", "refuses the token (401)", "hf auth login"),
        (TOKEN, "bob/his", "may not write there", "of your own"),
        (None, None, "no repository is named", "--repo owner/name"),
    ],
)
def test_what_the_hub_refuses_is_said_with_the_way_out(
    run: Path,
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    repo: str | None,
    message: str,
    fix: str,
):
    if token == "":
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(run / "no-token"))
    elif token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(HubError) as caught:
        push(run, repo=repo)
    assert message in caught.value.message
    assert fix in caught.value.fix
    assert not hub.repos


def test_without_network_it_says_so(run: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        push(run)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnreachableError, match="cannot be reached"):
        push(run)


def test_one_file_is_sent_beside_what_is_there(run: Path, hub: Hub, tmp_path: Path):
    push(run)
    card = hub.repos["ada/mine"].files["README.md"]
    (run / "model-q8_0.gguf").write_bytes(b"GGUF" + bytes(64))
    push(run, what="model-q8_0.gguf")
    files = hub.repos["ada/mine"].files
    assert files["model-q8_0.gguf"].startswith(b"GGUF")
    assert files["README.md"] == card
    push(run, repo="alone", what=str(run / "model-q8_0.gguf"))
    alone = hub.repos["ada/alone"].files
    assert set(alone) == {"README.md", "model-q8_0.gguf"}
    assert ModelCard(alone["README.md"].decode()).data.library_name == "gguf"


# While a run trains


def start(config_file: Path) -> None:
    config, _ = load_config(str(config_file))
    pipeline.train(config)


def test_every_save_is_sent_and_the_result_at_the_end(
    write_config: Callable[..., Path], hub: Hub, tmp_path: Path
):
    start(write_config(**LORA, save_steps=2, eval_steps=2, hub_model_id="tuned", hub_private_repo=False))
    repo = hub.repos["ada/tuned"]
    assert not repo.private
    summaries = [summary for _, summary, _ in repo.commits]
    assert summaries[-1] == "End of training"
    assert "Step 4" in summaries
    assert {path for _, _, paths in repo.commits for path in paths} == set(repo.files)
    assert "optimizer.pt" not in str(repo.files.keys())
    (tmp_path / "back.safetensors").write_bytes(repo.files["adapter_model.safetensors"])
    with safe_open(tmp_path / "back.safetensors", "pt") as sent:
        assert sent.keys()
    assert (
        repo.files["adapter_model.safetensors"] == (tmp_path / "out/adapter_model.safetensors").read_bytes()
    )
    assert 'name = "ada/tuned"' in repo.files["README.md"].decode()
    assert not list((tmp_path / "out").glob(".writing-*"))


@pytest.mark.parametrize(
    ("strategy", "folders"),
    [
        ("checkpoint", {"last-checkpoint"}),
        pytest.param("all_checkpoints", {"checkpoint-2", "checkpoint-4"}, marks=pytest.mark.long),
    ],
)
def test_checkpoints_are_sent_whole_where_they_are_asked_for(
    write_config: Callable[..., Path], hub: Hub, tmp_path: Path, strategy: str, folders: set[str]
):
    start(write_config(**LORA, save_steps=2, hub_model_id="tuned", hub_strategy=strategy))
    files = hub.repos["ada/tuned"].files
    assert {path.split("/")[0] for path in files if "/" in path} == folders
    last = "last-checkpoint" if strategy == "checkpoint" else "checkpoint-4"
    for path in (tmp_path / "out/checkpoint-4").iterdir():
        assert files[f"{last}/{path.name}"] == path.read_bytes(), path.name


def test_a_hub_that_fails_fails_no_run_and_is_tried_again(
    write_config: Callable[..., Path], hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    hub.refuses_commits = (403, "Storage quota exceeded")
    keys = {"save_steps": 1, "max_steps": 1, "hub_model_id": "tuned", "hub_strategy": "all_checkpoints"}
    start(write_config(**LORA, **keys))
    said = capfd.readouterr().err
    assert "could not be uploaded, and the run goes on (failure 1)" in said
    assert "Storage quota exceeded" in said
    assert "the result of the run is not on the hub" in said
    assert f"siredon push {tmp_path / 'out'}" in said
    assert "not on the hub: checkpoint-" in said
    assert (tmp_path / "out/adapter_model.safetensors").is_file()
    config, _ = load_config(str(tmp_path / "config.yml"))
    hub.refuses_commits = None
    uploads = Uploads(config.hub, config.checkpoint.output_folder)
    uploads._failed = [tmp_path / "out/checkpoint-1"]
    shutil.copytree(tmp_path / "out/checkpoint-1", tmp_path / "out/checkpoint-2")
    uploads.published(tmp_path / "out/checkpoint-2")
    uploads.finish()
    folders = {path.split("/")[0] for path in hub.repos["ada/tuned"].files if "/" in path}
    assert folders == {"checkpoint-1", "checkpoint-2"}


def test_no_step_waits_for_an_upload_and_a_checkpoint_may_go_meanwhile(
    run: Path, hub: Hub, capfd: pytest.CaptureFixture[str]
):
    config, _ = load_target(str(run))
    section = config.hub.model_copy(update={"hub_model_id": "tuned", "hub_strategy": "checkpoint"})
    uploads = Uploads(section, run)
    hub.gate.clear()
    uploads.published(run / "checkpoint-2")
    assert hub.has_upload.wait(60)
    shutil.rmtree(run / "checkpoint-2")  # as `save_total_limit` does
    hub.gate.set()
    assert uploads._thread is None or uploads._thread.join() is None
    files = hub.repos["ada/tuned"].files
    assert {"last-checkpoint/optimizer.pt", "adapter_model.safetensors"} <= set(files)
    assert uploads.num_failures == 0


def test_the_weights_of_a_checkpoint_are_sent_as_those_of_a_model(
    write_config: Callable[..., Path], run: Path, hub: Hub, tmp_path: Path, model_folder: Path
):
    keys = {**LORA, "peft_init_lora_weights": "pissa", "max_steps": 1}
    start(write_config(**keys))
    config, _ = load_config(str(tmp_path / "config.yml"))
    section = config.hub.model_copy(update={"hub_model_id": "tuned"})
    uploads = Uploads(section, tmp_path / "out")
    uploads._try(tmp_path / "out/checkpoint-1")
    files = hub.repos["ada/tuned"].files
    settings = json.loads(files["adapter_config.json"])
    # What PiSSA begins with is no part of the base that others have
    assert settings["r"] == 2 * LORA["lora_r"]
    assert settings["base_model_name_or_path"] == model_folder.name
    assert (
        len(files["adapter_model.safetensors"])
        > (tmp_path / "out/checkpoint-1/adapter_model.safetensors").stat().st_size
    )
    # With ReLoRA the base has changed too
    (run / "checkpoint-2/relora.safetensors").touch()
    Uploads(section.model_copy(update={"hub_model_id": "relora"}), run)._try(run / "checkpoint-2")
    assert hub.repos["ada/relora"].files == {}
    assert uploads.num_failures == 0


def test_a_run_whose_uploads_would_be_refused_does_not_begin(
    write_config: Callable[..., Path],
    hub: Hub,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrongwrong")
    path = write_config(hub_model_id="tuned")
    with pytest.raises(HubError, match="refuses the token"):
        start(path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    config, _ = load_config(str(path))
    with open_uploads(config) as uploads:  # A network that is down now may be up later
        assert uploads is not None
    assert "tries again at every save" in capfd.readouterr().err


@pytest.mark.long
def test_a_run_that_is_told_to_end_does_not_wait_for_the_network(
    write_config: Callable[..., Path], tmp_path: Path
):
    keys = {"max_steps": 2000, "save_steps": 1, "hub_model_id": "tuned", "hub_strategy": "checkpoint"}
    path = write_config(**LORA, **keys)
    with serve_hub() as hub:
        hub.gate.clear()  # Nothing that is sent ever arrives
        env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "siredon", "train", str(path)]
        process = subprocess.Popen(
            command, env={**env, "HF_HUB_OFFLINE": "0"}, stderr=subprocess.PIPE, text=True
        )
        assert hub.has_upload.wait(120)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=100)
        assert not hub.gate.is_set()
    assert process.returncode == 75, said
    assert "an upload to the hub is cut off" in said
    assert hub.repos["ada/tuned"].files == {}

"""Text from vLLM: a server in an environment of its own, which clients ask directly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from siredon.config.model_folder import locate_model
from siredon.config.schema import Config
from siredon.config.sections.serving import VllmOptions
from siredon.errors import ModelError, ServeError
from siredon.log import note, show
from siredon.model.adapter_folder import SETTINGS, START, check_adapter, find_adapter
from siredon.model.locate import tuned_model
from siredon.model.loftq import ROUNDED
from siredon.serve.child import Launch, run_child
from siredon.serve.names import name_models
from siredon.serve.server import open_socket, warn_of_strangers
from siredon.serve.wanted import Limits, Wanted

USUAL_ENV = Path(".vllm-env")
#: Ranks for which vLLM has room; an adapter takes the next larger one.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
_HIDDEN = ("PYTHONPATH", "SIREDON_API_KEY")


def serve_vllm(config: Config, wanted: Wanted) -> None:
    """Answers over HTTP from vLLM, until it is told to end.

    Raises:
        ServeError: vLLM is not there, or cannot do what is asked.
    """
    if wanted.limits != Limits():
        raise ServeError(
            "the limits of `siredon serve` are those of `--engine transformers`",
            "Remove them; vLLM has `max_model_len` in `vllm:`.",
        )
    _serve(config, wanted, {})


def serve_online(config: Config, wanted: Wanted) -> None:
    """The same, with routes by which a trainer loads and swaps adapters.

    Raises:
        ServeError: vLLM is not there, or cannot do what is asked.
    """
    _serve(config, wanted, {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"})


ENGINE = serve_vllm


def _serve(config: Config, wanted: Wanted, variables: dict[str, str]) -> None:
    is_online = bool(variables)
    program = find_program(wanted.vllm_env)
    with open_socket(wanted.address) as free:
        wanted = replace(wanted, address=replace(wanted.address, port=free.getsockname()[1]))
    warn_of_strangers(wanted.address)
    command = [str(program), *list_words(config, wanted, is_online=is_online)]
    variables = {**variables, "VLLM_NO_USAGE_STATS": "1"}
    if wanted.address.api_key:
        variables["VLLM_API_KEY"] = wanted.address.api_key  # Not on the command line, which others can read
    note("vLLM is starting, which takes a minute or more")

    def tell() -> None:
        show(f"serving on http://{wanted.address.shown}/v1")
        names = name_models(config, wanted)
        for name in names if not is_online or _has_adapter(config) else names[-1:]:
            show(f"  model: {name}")

    run_child(Launch(command, variables, _HIDDEN), wanted.address, tell)


def find_program(folder: Path | None) -> Path:
    """VLLM's command.

    Args:
        folder: The environment in which it is; None for `.vllm-env` here, or what is on the PATH.

    Raises:
        ServeError: It is not there.
    """
    program = (folder or USUAL_ENV).expanduser() / "bin" / "vllm"
    if program.is_file():
        return program.absolute()
    on_path = shutil.which("vllm") if folder is None else None
    if on_path is None:
        raise ServeError(
            f"vLLM is not there: {program}",
            "Build an environment for it: `make vllm-env` in a checkout, or `python -m venv .vllm-env` and "
            "`.vllm-env/bin/pip install vllm`; or name one with `--vllm-env FOLDER`.",
        )
    return Path(on_path)


def list_words(config: Config, wanted: Wanted, *, is_online: bool) -> list[str]:
    """What follows `vllm`: the model, its adapters, and the keys of `vllm:`."""
    names = name_models(config, wanted)
    address = ["--host", wanted.address.host, "--port", str(wanted.address.port)]
    options = list(_list_options(config.serving.vllm or VllmOptions()))
    output = config.checkpoint.output_folder
    if not config.writes_adapter:
        model = locate_model(tuned_model(config.model, output).base_model)
        return ["serve", model, "--served-model-name", names[0], *address, *options]
    if config.quantization.ways:
        note("vLLM is given the base unrounded; the adapter was trained beside rounded weights")
    words = [
        "serve",
        locate_model(config.model.base_model),
        "--served-model-name",
        names[-1],
        *address,
        *options,
    ]
    return [*words, *_list_adapters(config, wanted, names, is_online=is_online)]


def _list_adapters(config: Config, wanted: Wanted, names: list[str], *, is_online: bool) -> Iterator[str]:
    if config.adapter.lora_frozen_dirs:
        raise ModelError(
            "vLLM cannot serve an adapter that stands on others (`lora_frozen_dirs`)",
            "Merge it (`siredon merge-lora`), and serve the merged model.",
        )
    folders = [Path(folder).expanduser() for _, folder in wanted.adapters]
    if not is_online or _has_adapter(config):
        folders.insert(0, find_adapter(config.adapter, config.checkpoint.output_folder))
    ranks = [config.adapter.lora_r or 1, *(_read_rank(folder) for folder in folders)]
    room = next((rank for rank in _RANKS if rank >= max(ranks)), None)
    if room is None:
        raise ModelError(
            f"vLLM takes adapters up to rank {_RANKS[-1]}, and this one has {max(ranks)}",
            "Merge it (`siredon merge-lora`), and serve the merged model.",
        )
    yield from ("--enable-lora", "--max-lora-rank", str(room), "--max-loras", str(max(len(folders), 2)))
    if folders:
        pairs = zip(names, folders, strict=False)
        yield from ("--lora-modules", *(f"{name}={folder.resolve()}" for name, folder in pairs))
        if (folders[0] / "tokenizer_config.json").is_file():
            yield from ("--tokenizer", str(folders[0].resolve()))  # With the chat template of training


def _has_adapter(config: Config) -> bool:
    given = config.adapter.lora_model_dir
    places = (config.checkpoint.output_folder, *([Path(given).expanduser()] if given else []))
    return config.writes_adapter and any((place / SETTINGS).is_file() for place in places)


def _read_rank(folder: Path) -> int:
    """The largest rank of an adapter of LoRA.

    Raises:
        ModelError: vLLM cannot serve it.
    """
    check_adapter(folder)
    settings = json.loads((folder / SETTINGS).read_text())
    special = [name for name in (START, ROUNDED) if (folder / name).is_file()]
    kinds = {
        "use_dora": "DoRA",
        "modules_to_save": "`lora_modules_to_save`",
        "trainable_token_indices": "new tokens",
    }
    found = [word for name, word in kinds.items() if settings.get(name)]
    if settings["peft_type"] != "LORA" or special or found:
        what = found[0] if found else "a start of its own" if special else settings["peft_type"]
        raise ModelError(
            f"vLLM serves plain adapters of LoRA, and {folder} has {what}",
            "Merge it (`siredon merge-lora`), and serve the merged model; or take `--engine transformers`.",
        )
    return int(max([settings["r"], *settings.get("rank_pattern", {}).values()]))


def _list_options(options: VllmOptions) -> Iterator[str]:
    """The keys of `vllm:` that the file has, as options of the same names."""
    values = {
        "dtype": options.dtype,
        "tensor_parallel_size": options.tensor_parallel_size,
        "data_parallel_size": options.data_parallel_size,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "max_model_len": options.max_model_len,
        "reasoning_parser": None if options.enable_reasoning is False else options.reasoning_parser,
        "worker_extension_cls": options.worker_extension_cls,
    }
    switches = {
        "enable_prefix_caching": options.enable_prefix_caching,
        "enforce_eager": options.enforce_eager,
    }
    for name, value in values.items():
        if name in options.model_fields_set and value is not None:
            yield from (f"--{name.replace('_', '-')}", str(value))
    for name, switch in switches.items():
        if switch is not None:
            yield f"--{'' if switch else 'no-'}{name.replace('_', '-')}"

"""Preferences, rewards and answers that are written while training."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_idle_keys, find_useless_keys, keys_asking, keys_but, keys_set, list_keys
from siredon.config.rule import Finding, Rule
from siredon.config.sections.attention import AttentionSection
from siredon.config.sections.batch import BatchSection
from siredon.config.sections.compile import CompileSection
from siredon.config.sections.data import DataSection
from siredon.config.sections.diffusion import DiffusionSection
from siredon.config.sections.distillation import DistillationSection
from siredon.config.sections.distributed import DistributedSection
from siredon.config.sections.file import PluginSection
from siredon.config.sections.hatchery import HatcherySection
from siredon.config.sections.memory import MemorySection
from siredon.config.sections.model import ModelSection
from siredon.config.sections.online import SYNC_KEYS, NemoGymSection, OnlineSection, TrlOptions
from siredon.config.sections.packing import PackingSection
from siredon.config.sections.preference import PreferenceSection, RewardSection

_GROUPED = ("grpo", "gdpo")
_ONLINE = (*_GROUPED, "ebft")


def _check_method(
    distillation: DistillationSection,
    diffusion: DiffusionSection,
    preference: PreferenceSection,
) -> Iterator[Finding]:
    """Learning from a teacher, and by filling in masks, is a method of its own.

    It has its own loss, so there is no room for that of another.
    """
    own = [*keys_set(distillation, ("kd_trainer",)), *keys_set(diffusion, ("diffusion",))]
    others = keys_asking(preference, ("rl", "reward_model", "process_reward_model"))
    if own and len([*own, *others]) > 1:
        yield Finding(own[0], f"{list_keys([*others, *own])} exclude each other", "Keep one of them.")


def _check_packing(preference: PreferenceSection, packing: PackingSection) -> Iterator[Finding]:
    """Methods that judge answers one by one take them unpacked; `rl: dpo` and `rl: kto` pack what belongs together."""
    if preference.compares or preference.is_unpaired:
        return
    method = f"rl: {preference.rl}" if preference.rl else ""
    names = {"sample_packing": packing.sample_packing, "eval_sample_packing": packing.eval_sample_packing}
    for name, is_on in names.items():
        if method and is_on:
            yield Finding(name, f"`{name}: true` does not work with `{method}`", f"Remove `{name}`.")


#: Key -> the methods that read it.
_READERS: dict[str, tuple[str, ...]] = {
    "rl_beta": ("dpo", "ipo", "kto", "orpo", "simpo", *_GROUPED, "ebft"),
    "dpo_label_smoothing": ("dpo",),
    "dpo_use_weighting": ("dpo", "ipo"),
    "dpo_use_liger_kernel": ("dpo", "ipo"),
    "dpo_padding_free": ("dpo", "ipo"),
    "precompute_ref_log_probs": ("dpo", "ipo", "kto"),
    "log_entropy": ("dpo", "ipo", "simpo", "orpo"),
    "log_kl": ("dpo", "ipo"),
    "orpo_alpha": ("orpo",),
    "simpo_gamma": ("simpo",),
    "cpo_alpha": ("simpo",),
    "kto_desirable_weight": ("kto",),
    "kto_undesirable_weight": ("kto",),
}


def _check_idle(
    preference: PreferenceSection, reward: RewardSection, online: OnlineSection, model: ModelSection
) -> Iterator[Finding]:
    """Settings of a method come with that method.

    Others pass over them.  Of `trl`, methods that write no answers read `beta` alone, and those that compare with a
    reference also how it follows.
    """
    rl = preference.rl
    for readers in dict.fromkeys(_READERS.values()):
        names = [name for name, methods in _READERS.items() if methods == readers]
        if preference.is_supervised:
            yield from find_idle_keys(preference, names, f"`rl: {readers[0]}`")
        elif rl not in readers:
            yield from find_useless_keys(preference, names, f"with `{preference.switch}`")
    if rl is None:
        yield from find_idle_keys(online, ("trl",), "`rl: grpo`")
    elif rl not in _ONLINE and online.trl:
        read = ("beta", *(SYNC_KEYS if preference.has_reference else ()))
        yield from find_useless_keys(
            online.trl, keys_but(TrlOptions, *read), f"with `rl: {rl}`", prefix="trl."
        )
    if rl != "ebft":
        yield from find_idle_keys(online, ("ebft",), "`rl: ebft`")
    if not preference.judges and "Classification" not in model.model_type:
        yield from find_idle_keys(reward, ("num_labels",), "`reward_model: true`")


def _check_losses(preference: PreferenceSection) -> Iterator[Finding]:
    """The losses of DPO have one weight each.

    `dpo_loss_type` and `dpo_loss_weights` are read by `rl: dpo` only.
    """
    losses, weights = preference.dpo_loss_type, preference.dpo_loss_weights
    found = keys_set(preference, ("dpo_loss_type", "dpo_loss_weights"))
    if found and preference.rl != "dpo":
        verb = "need" if len(found) > 1 else "needs"
        instead = "" if preference.is_supervised else f", and the method is `{preference.switch}`"
        way_out = f"{'Add' if preference.is_supervised else 'Set'} `rl: dpo`, or remove what is for it."
        yield Finding(found[0], f"{list_keys(found)} {verb} `rl: dpo`{instead}", way_out)
    elif weights and not losses:
        message = "`dpo_loss_weights` needs `dpo_loss_type`"
        yield Finding("dpo_loss_weights", message, "Name the losses that are weighed.")
    elif weights and losses and len(weights) != len(losses):
        message = f"{len(losses)} `dpo_loss_type`, but {len(weights)} `dpo_loss_weights`"
        yield Finding("dpo_loss_weights", message, "Give each loss one weight.")


def _check_beta(preference: PreferenceSection, online: OnlineSection) -> Iterator[Finding]:
    """The pull towards the reference model is given once.

    `rl_beta` and `trl.beta` are the same number; with ORPO, so is `orpo_alpha`.
    """
    given = {"rl_beta": preference.rl_beta, "trl.beta": online.trl.beta if online.trl else None}
    if preference.rl == "orpo":
        given["orpo_alpha"] = preference.orpo_alpha
    found = {name: value for name, value in given.items() if value is not None}
    if len(set(found.values())) > 1:
        names = list(found)
        yield Finding(names[1], f"{list_keys(names)} contradict each other", "Keep one of them.")


def _check_groups(
    preference: PreferenceSection, online: OnlineSection, batch: BatchSection
) -> Iterator[Finding]:
    """A batch of answers holds whole groups of two or more.

    An answer is judged against the others of its group, so one alone teaches nothing.  Without
    `trl.generation_batch_size` the batch grows with the GPUs, so what does not fit on one is a warning.
    """
    trl = online.trl
    if preference.rl not in _GROUPED or trl is None or trl.num_generations is None:
        return
    size, written = trl.num_generations, trl.generation_batch_size
    if size < 2:
        message = f"`num_generations: {size}` leaves an answer nothing to be compared with"
        yield Finding("trl.num_generations", message, "Set `num_generations: 8`, for example.")
    elif written is not None and written % size:
        message = f"`generation_batch_size: {written}` is no multiple of `num_generations: {size}`"
        fix = f"Set `generation_batch_size: {size * max(1, written // size)}`, for example."
        yield Finding("trl.generation_batch_size", message, fix)
    elif written is None:
        yield from _check_step(size, batch)


def _check_step(size: int, batch: BatchSection) -> Iterator[Finding]:
    answers = batch.batch_size or batch.micro_batch_size * batch.gradient_accumulation_steps
    steps = next(n for n in range(1, size + 1) if batch.micro_batch_size * n % size == 0)
    if answers % size:
        yield Finding(
            "trl.num_generations",
            f"{answers} answers per step and GPU are no whole groups of `num_generations: {size}`",
            f"Set `gradient_accumulation_steps: {steps}` or a multiple, or use GPUs that make up for it.",
            "warning",
        )


def _check_rewards(
    preference: PreferenceSection,
    online: OnlineSection,
    nemo_gym: NemoGymSection,
    hatchery: HatcherySection,
    plugins: PluginSection,
) -> Iterator[Finding]:
    """GRPO and GDPO have rewards, and where these have weights, each has one.

    They may come from NeMo Gym, from a remote trainer or from a trainer of your own instead.
    """
    if preference.rl not in _GROUPED:
        return
    rewards = online.trl.reward_funcs if online.trl else None
    weights = online.trl.reward_weights if online.trl else None
    elsewhere = nemo_gym.nemo_gym_enabled or hatchery.hatchery or plugins.trainer_cls
    if not rewards and not elsewhere:
        yield Finding(
            "trl" if online.trl else "rl",
            f"`rl: {preference.rl}` needs `trl.reward_funcs`",
            "Add `reward_funcs: [rewards.score]` to `trl`, for example: dotted paths of functions.",
        )
    if rewards and weights and len(rewards) != len(weights):
        message = f"{len(rewards)} `reward_funcs`, but {len(weights)} `reward_weights`"
        yield Finding("trl.reward_weights", message, "Give each reward one weight.")


def _check_aggregation(preference: PreferenceSection, online: OnlineSection) -> Iterator[Finding]:
    """GDPO normalizes each reward before they are added.

    Normalizing afterwards is GRPO.
    """
    trl = online.trl
    if preference.rl == "gdpo" and trl and trl.multi_objective_aggregation == "sum_then_normalize":
        yield Finding(
            "trl.multi_objective_aggregation",
            "`multi_objective_aggregation: sum_then_normalize` is GRPO, not `rl: gdpo`",
            "Remove it, or write `rl: grpo`.",
        )


def _check_liger(
    preference: PreferenceSection, online: OnlineSection, distributed: DistributedSection
) -> Iterator[Finding]:
    """Liger's loss of GRPO sees whole sequences.

    It computes head and loss at once, over a sequence that one GPU holds.
    """
    shared = (distributed.context_parallel_size or 1) > 1
    if preference.rl in _GROUPED and online.trl and online.trl.use_liger_loss and shared:
        yield Finding(
            "trl.use_liger_loss",
            "`use_liger_loss: true` does not work with `context_parallel_size`",
            "Remove one of them.",
        )


_SERVER_KEYS = ("vllm_server_host", "vllm_server_port", "vllm_server_timeout")
_VLLM_KEYS = tuple(
    name for name in TrlOptions.model_fields if name.startswith("vllm_") and name != "vllm_sync_interval"
)
_AHEAD_KEYS = ("prefetch_depth", "vllm_sync_interval", "streaming_partial_batch", "streaming_min_groups")


def _check_answers(preference: PreferenceSection, online: OnlineSection) -> Iterator[Finding]:
    """Settings in `trl` of how answers are written come with what they set.

    Alone they have no effect.
    """
    trl = online.trl
    if preference.rl not in _ONLINE or trl is None:
        return
    if not trl.use_vllm:
        yield from find_idle_keys(trl, _VLLM_KEYS, "`use_vllm: true`", "trl.")
    elif trl.vllm_mode == "colocate":
        yield from find_useless_keys(trl, _SERVER_KEYS, "with `vllm_mode: colocate`", prefix="trl.")
    else:
        yield from find_idle_keys(trl, ("vllm_enable_sleep_mode",), "`vllm_mode: colocate`", "trl.")
    if not (trl.async_prefetch or trl.use_data_producer):
        yield from find_idle_keys(trl, _AHEAD_KEYS, "`async_prefetch: true`", "trl.")
    if not trl.sync_ref_model:
        yield from find_idle_keys(trl, SYNC_KEYS[1:], "`sync_ref_model: true`", "trl.")
    if not trl.log_completions:
        yield from find_idle_keys(trl, ("num_completions_to_print",), "`log_completions: true`", "trl.")


#: What pieces along a text have, and whole answers have in `trl`.
_STRIDED_KEYS = (
    "rl_coef",
    "advantage_estimator",
    "n_samples_per_prompt",
    "temperature",
    "top_p",
    "stride",
    "context_length",
    "generate_max_len",
    "min_completion_prefix",
)


def _check_ebft(preference: PreferenceSection, online: OnlineSection) -> Iterator[Finding]:
    """`rl: ebft` has its block, with settings of its mode.

    Whole answers are written by the settings in `trl`, pieces along a text by those in `ebft`.
    """
    if preference.rl != "ebft":
        return
    if online.ebft is None:
        message = "`rl: ebft` needs the block `ebft`"
        yield Finding("rl", message, "Add `ebft:` with `mode: structured` or `mode: strided`.")
    elif online.ebft.mode == "structured":
        yield from find_idle_keys(online.ebft, _STRIDED_KEYS, "`mode: strided`", "ebft.")


def _check_strided(
    preference: PreferenceSection,
    online: OnlineSection,
    compile: CompileSection,
    memory: MemorySection,
    attention: AttentionSection,
) -> Iterator[Finding]:
    """EBFT along a text is not compiled, and under flex attention its activations are not parked.

    Its masks change with each step: a compiled model is compiled anew for each, and recomputing then meets
    another mask than the forward pass had.  Flex attention compiles itself, and recomputes in a way that parked
    activations do not fit.
    """
    if preference.rl != "ebft" or online.ebft is None or online.ebft.mode != "strided":
        return
    if compile.torch_compile is True:
        recomputes = memory.gradient_checkpointing
        yield Finding(
            "torch_compile",
            "`torch_compile: true` with `ebft.mode: strided` "
            + ("fails under `gradient_checkpointing`" if recomputes else "compiles anew at each step"),
            "Remove `torch_compile`.",
            "error" if recomputes else "warning",
        )
    if memory.activation_offloading and attention.attn_implementation == "flex_attention":
        yield Finding(
            "activation_offloading",
            "`activation_offloading` does not work with flex attention and `ebft.mode: strided`",
            "Remove `activation_offloading`.",
        )


def _check_columns(preference: PreferenceSection, data: DataSection) -> Iterator[Finding]:
    """KTO keeps the columns that say which answers are good.

    They are no input of the model, so `remove_unused_columns` would drop them.
    """
    if preference.rl == "kto" and data.remove_unused_columns:
        message = "`remove_unused_columns: true` drops what `rl: kto` learns from"
        yield Finding("remove_unused_columns", message, "Set it to false.")


_GRPO = "rl: grpo\ntrl:\n  reward_funcs: [rewards.score]\n"
_BATCH = "gradient_accumulation_steps: 4\n"
_STRIDED = "rl: ebft\nebft:\n  mode: strided\n"
RULES = (
    Rule("SD0313", _check_method, wrong="rl: dpo\nkd_trainer: true", right="kd_trainer: true"),
    Rule("SD0314", _check_packing, wrong=_GRPO + "sample_packing: true", right=_GRPO),
    Rule("SD0315", _check_idle, wrong="rl: dpo\norpo_alpha: 0.1", right="rl: orpo\norpo_alpha: 0.1"),
    Rule(
        "SD0316",
        _check_losses,
        wrong="rl: dpo\ndpo_loss_type: [sigmoid]\ndpo_loss_weights: [1.0, 0.2]",
        right="rl: dpo\ndpo_loss_type: [sigmoid]\ndpo_loss_weights: [0.5]",
    ),
    Rule(
        "SD0317",
        _check_beta,
        wrong="rl: dpo\nrl_beta: 0.1\ntrl:\n  beta: 0.2",
        right="rl: dpo\nrl_beta: 0.1",
    ),
    Rule(
        "SD0318",
        _check_groups,
        wrong=_BATCH + _GRPO + "  num_generations: 1",
        right=_BATCH + _GRPO + "  num_generations: 4",
    ),
    Rule("SD0319", _check_rewards, wrong="rl: grpo", right=_GRPO),
    Rule(
        "SD0320",
        _check_aggregation,
        wrong=_GRPO.replace("grpo", "gdpo") + "  multi_objective_aggregation: sum_then_normalize",
        right=_GRPO.replace("grpo", "gdpo") + "  multi_objective_aggregation: normalize_then_sum",
    ),
    Rule(
        "SD0321",
        _check_liger,
        wrong=_GRPO
        + "  use_liger_loss: true\ncontext_parallel_size: 2\nattn_implementation: flash_attention_2",
        right=_GRPO + "  use_liger_loss: true",
    ),
    Rule(
        "SD0322",
        _check_answers,
        wrong=_GRPO + "  vllm_mode: colocate",
        right=_GRPO + "  use_vllm: true\n  vllm_mode: colocate",
    ),
    Rule("SD0323", _check_ebft, wrong="rl: ebft", right=_STRIDED),
    Rule(
        "SD0324",
        _check_strided,
        wrong=_STRIDED + "torch_compile: true\ngradient_checkpointing: true",
        right=_STRIDED + "gradient_checkpointing: true",
    ),
    Rule(
        "SD0325",
        _check_columns,
        wrong="rl: kto\nremove_unused_columns: true",
        right="rl: kto\nremove_unused_columns: false",
    ),
)

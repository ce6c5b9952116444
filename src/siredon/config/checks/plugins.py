"""Parts of others: trackers, a teacher, NeMo Gym, diffusion."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.idle import find_idle_keys, find_useless_keys, keys_but
from siredon.config.rule import Finding, Rule
from siredon.config.sections.diffusion import DiffusionSection
from siredon.config.sections.distillation import DistillationSection
from siredon.config.sections.online import NemoGymSection, OnlineSection
from siredon.config.sections.preference import PreferenceSection
from siredon.config.sections.trackers import SwanlabSection


def _check_swanlab(swanlab: SwanlabSection) -> Iterator[Finding]:
    """SwanLab knows the project that a run belongs to."""
    if swanlab.use_swanlab and not (swanlab.swanlab_project or "").strip():
        yield Finding("use_swanlab", "`use_swanlab: true` needs `swanlab_project`", "Add `swanlab_project`.")


def _check_tracker(swanlab: SwanlabSection) -> Iterator[Finding]:
    """Settings of SwanLab come with it.

    It is switched on by `use_swanlab`, or by naming the project.
    """
    if not (swanlab.use_swanlab or swanlab.swanlab_project):
        # A mode is left out: `swanlab_mode: disabled` is a way of saying that nothing is reported
        names = keys_but(SwanlabSection, "use_swanlab", "swanlab_project", "swanlab_mode")
        yield from find_idle_keys(swanlab, names, "`swanlab_project`")


_ONLINE_KEYS = ("kd_online_server", "kd_online_topk", "kd_online_timeout")


def _check_teacher(distillation: DistillationSection) -> Iterator[Finding]:
    """Settings of a teacher come with `kd_trainer`, those of a server with its address.

    Alone they have no effect.
    """
    if not distillation.kd_trainer:
        names = keys_but(DistillationSection, "kd_trainer")
        yield from find_idle_keys(distillation, names, "`kd_trainer: true`")
    elif not distillation.kd_online_server_base_url:
        yield from find_idle_keys(distillation, _ONLINE_KEYS, "`kd_online_server_base_url`")


def _check_masks(diffusion: DiffusionSection) -> Iterator[Finding]:
    """The fewest masked tokens are not more than the most."""
    options = diffusion.diffusion
    if options is not None and options.min_mask_ratio > options.max_mask_ratio:
        yield Finding(
            "diffusion.min_mask_ratio",
            f"`min_mask_ratio: {options.min_mask_ratio:g}` is above `max_mask_ratio: {options.max_mask_ratio:g}`",
            "Lower it, or raise `max_mask_ratio`.",
        )


def _check_gym(
    nemo_gym: NemoGymSection, preference: PreferenceSection, online: OnlineSection
) -> Iterator[Finding]:
    """NeMo Gym has tasks and servers, and a method that asks it for rewards.

    Servers that run already need no `nemo_gym_config_paths`.  Tasks of several turns are written by vLLM.
    """
    if not nemo_gym.nemo_gym_enabled:
        return
    if not nemo_gym.nemo_gym_datasets:
        message = "`nemo_gym_enabled: true` needs `nemo_gym_datasets`"
        yield Finding("nemo_gym_enabled", message, "Add `nemo_gym_datasets`: a list of paths.")
    if nemo_gym.nemo_gym_auto_start and not nemo_gym.nemo_gym_config_paths:
        message = "`nemo_gym_enabled: true` needs `nemo_gym_config_paths`: there is no server to start"
        fix = "Add it, or set `nemo_gym_auto_start: false` if servers run already."
        yield Finding("nemo_gym_enabled", message, fix)
    if nemo_gym.nemo_gym_multi_turn and not (online.trl and online.trl.use_vllm):
        message = "`nemo_gym_multi_turn: true` needs `trl.use_vllm: true`"
        yield Finding("nemo_gym_multi_turn", message, "Add `use_vllm: true` to `trl`.")
    if preference.rl not in ("grpo", "gdpo"):
        yield from find_useless_keys(nemo_gym, ("nemo_gym_enabled",), "without `rl: grpo`", "Add `rl: grpo`")


_GYM = "rl: grpo\nnemo_gym_enabled: true\nnemo_gym_datasets:\n  - path: tasks.jsonl\n"

RULES = (
    Rule(
        "SD0367",
        _check_swanlab,
        wrong="use_swanlab: true",
        right="use_swanlab: true\nswanlab_project: pets",
    ),
    Rule(
        "SD0368",
        _check_tracker,
        wrong="swanlab_experiment_name: first",
        right="swanlab_experiment_name: first\nswanlab_project: pets",
    ),
    Rule("SD0369", _check_teacher, wrong="kd_alpha: 0.9", right="kd_alpha: 0.9\nkd_trainer: true"),
    Rule(
        "SD0370",
        _check_masks,
        wrong="diffusion:\n  min_mask_ratio: 0.95",
        right="diffusion:\n  min_mask_ratio: 0.15",
    ),
    Rule(
        "SD0371",
        _check_gym,
        wrong=_GYM,
        right=_GYM + "nemo_gym_config_paths: [servers/sudoku.yaml]",
    ),
)

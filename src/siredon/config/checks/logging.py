"""What is reported, and to whom."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.fields import Section
from siredon.config.idle import find_idle_keys, keys_set
from siredon.config.rule import Finding, Rule
from siredon.config.sections.logging import ProfilerSection
from siredon.config.sections.trackers import (
    CometSection,
    MetricsSection,
    MlflowSection,
    TrackioSection,
    WandbSection,
)

_WANDB = ("wandb_entity", "wandb_name", "wandb_run_id", "wandb_watch", "wandb_log_model")
_MLFLOW = ("mlflow_tracking_uri", "mlflow_run_name", "hf_mlflow_log_artifacts")
_COMET = ("comet_workspace", "comet_experiment_key", "comet_mode", "comet_online", "comet_experiment_config")
_TRACKIO = ("trackio_run_name", "trackio_space_id")


def _check_trackers(
    wandb: WandbSection, mlflow: MlflowSection, comet: CometSection, trackio: TrackioSection
) -> Iterator[Finding]:
    """Settings of a tracker come with the tracker.

    It is switched on by `use_...`, or by the name of a project or experiment; without either nothing is reported.
    """
    trackers: tuple[tuple[Section, tuple[str, ...], tuple[str, str]], ...] = (
        (wandb, _WANDB, ("use_wandb", "wandb_project")),
        (mlflow, _MLFLOW, ("use_mlflow", "mlflow_experiment_name")),
        (comet, _COMET, ("use_comet", "comet_project_name")),
        (trackio, _TRACKIO, ("use_trackio", "trackio_project_name")),
    )
    for section, names, switches in trackers:
        if not keys_set(section, switches):
            yield from find_idle_keys(section, names, f"`{switches[0]}: true`")


def _check_experiment(comet: CometSection) -> Iterator[Finding]:
    """A run that goes on in Comet names the experiment.

    `comet_mode: get` opens one that exists, by `comet_experiment_key`.
    """
    if comet.comet_mode == "get" and not comet.comet_experiment_key:
        yield Finding(
            "comet_mode",
            "`comet_mode: get` needs `comet_experiment_key`",
            "Add `comet_experiment_key`, or write `comet_mode: get_or_create`.",
        )


def _check_measuring(metrics: MetricsSection, profiler: ProfilerSection) -> Iterator[Finding]:
    """Settings of measuring come with what measures: `use_otel_metrics`, and `profiler_steps`."""
    if not metrics.use_otel_metrics:
        names = ("otel_metrics_host", "otel_metrics_port")
        yield from find_idle_keys(metrics, names, "`use_otel_metrics: true`")
    if profiler.profiler_steps is None:
        yield from find_idle_keys(profiler, ("profiler_steps_start",), "`profiler_steps: 10`")


RULES = (
    Rule(
        "SD0256",
        _check_trackers,
        wrong="wandb_name: first",
        right="wandb_project: stories\nwandb_name: first",
    ),
    Rule(
        "SD0257",
        _check_experiment,
        wrong="use_comet: true\ncomet_mode: get",
        right="use_comet: true\ncomet_mode: get\ncomet_experiment_key: 0123456789",
    ),
    Rule(
        "SD0258",
        _check_measuring,
        wrong="otel_metrics_port: 9000",
        right="use_otel_metrics: true\notel_metrics_port: 9000",
    ),
)

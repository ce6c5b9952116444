"""Services that show how a run goes."""

from __future__ import annotations

from typing import Any, Literal

from siredon.config.fields import Bool, Int, Section, Str, planned


class WandbSection(Section):
    """Weights & Biases."""

    use_wandb: Bool | None = planned("Report to it; default when a project is named.")
    wandb_project: Str | None = planned("Project that the run belongs to.")
    wandb_entity: Str | None = planned("User or team that owns the project.")
    wandb_name: Str | None = planned("Name of the run.")
    wandb_run_id: Str | None = planned("Id of the run, to go on with it later.")
    wandb_mode: Literal["online", "offline", "disabled"] | None = planned("Send, keep on disk, or neither.")
    wandb_watch: Str | None = planned("Record `gradients`, `parameters` or `all`.")
    wandb_log_model: Str | None = planned("Upload weights at each `checkpoint`, or at the `end`.")


class MlflowSection(Section):
    """MLflow."""

    use_mlflow: Bool | None = planned("Report to it.")
    mlflow_tracking_uri: Str | None = planned("Address of its server, or a folder.")
    mlflow_experiment_name: Str | None = planned("Experiment that the run belongs to.")
    mlflow_run_name: Str | None = planned("Name of the run.")
    hf_mlflow_log_artifacts: Bool | None = planned("Upload checkpoints too.")


class CometSection(Section):
    """Comet."""

    use_comet: Bool | None = planned("Report to it.")
    comet_api_key: Str | None = planned("Key to your account; never shown.", secret=True)
    comet_workspace: Str | None = planned("Workspace that owns the project.")
    comet_project_name: Str | None = planned("Project that the run belongs to.")
    comet_experiment_key: Str | None = planned("Id of the run, to go on with it later.")
    comet_mode: Literal["create", "get", "get_or_create"] | None = planned("A new run, that one, or either.")
    comet_online: Bool = planned("Send at once, or keep on disk.", True)
    comet_experiment_config: dict[str, Any] | None = planned("Further settings of Comet.")


class TrackioSection(Section):
    """Trackio."""

    use_trackio: Bool | None = planned("Report to it.")
    trackio_project_name: Str | None = planned("Project that the run belongs to.")
    trackio_run_name: Str | None = planned("Name of the run.")
    trackio_space_id: Str | None = planned("Space on the hub that shows it.")


class SwanlabSection(Section):
    """SwanLab."""

    use_swanlab: Bool | None = planned("Report to it.")
    swanlab_project: Str | None = planned("Project that the run belongs to.")
    swanlab_experiment_name: Str | None = planned("Name of the run.")
    swanlab_description: Str | None = planned("A note about the run.")
    swanlab_mode: Literal["cloud", "local", "offline", "disabled"] | None = planned(
        "Where records go: the service, your own, a folder, nowhere."
    )
    swanlab_workspace: Str | None = planned("Workspace that owns the project.")
    swanlab_api_key: Str | None = planned("Key to your account; never shown.", secret=True)
    swanlab_web_host: Str | None = planned("Address of a web page of your own.")
    swanlab_api_host: Str | None = planned("Address of a server of your own.")
    swanlab_log_model: Bool = planned("Upload weights.", False)
    swanlab_log_completions: Bool = planned("Record answers of preference and online methods.", True)
    swanlab_completion_log_interval: Int = planned("Optimizer steps between such records.", 100)
    swanlab_completion_max_buffer: Int = planned("Most answers kept for a record.", 128)
    swanlab_lark_webhook_url: Str | None = planned(
        "Lark or Feishu address that gets news of the run; never shown.", secret=True
    )
    swanlab_lark_secret: Str | None = planned("Secret that signs that news; never shown.", secret=True)


class MetricsSection(Section):
    """Numbers that Prometheus fetches."""

    use_otel_metrics: Bool = planned("Offer the numbers of the run over HTTP.", False)
    otel_metrics_host: Str = planned("Address on which they are offered.", "localhost")
    otel_metrics_port: Int = planned("Port on which they are offered.", 8000)

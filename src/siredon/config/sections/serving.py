"""Talking to a model."""

from __future__ import annotations

from siredon.config.fields import Bool, Float, Int, Section, Str, planned


class ServingSection(Section):
    """The web page of Gradio."""

    gradio_title: Str | None = planned("Heading of the page.")
    gradio_share: Bool | None = planned("Reachable from everywhere, through Gradio's servers.")
    gradio_server_name: Str | None = planned("Address on which it listens.")
    gradio_server_port: Int | None = planned("Port on which it listens.")
    gradio_max_new_tokens: Int | None = planned("Longest answer, in tokens.")
    gradio_temperature: Float | None = planned("Sampling temperature.")

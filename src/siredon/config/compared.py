"""What does not go with a policy that is compared with itself at its start: for pairs and for judged answers alike."""

from __future__ import annotations

from collections.abc import Iterator

from siredon.config.rule import Finding
from siredon.config.sections.adapter import AdapterSection
from siredon.config.sections.embedding import EmbeddingSection
from siredon.config.sections.freezing import LisaSection, ReloraSection
from siredon.config.sections.logging import LoggingSection


def find_moving(
    switch: str,
    relora: ReloraSection,
    lisa: LisaSection,
    embedding: EmbeddingSection,
    logging: LoggingSection,
) -> Iterator[Finding]:
    """What changes the start on the way, or is taken for a change of the model, or asks for a loss of tokens.

    Args:
        switch: The line of the file that chooses the method.
        relora: Changes the base.
        lisa: Changes what is trained.
        embedding: Adds noise.
        logging: Asks for the loss of each data set.
    """
    found = {
        "relora": bool(relora.relora),
        "lisa_n_layers": lisa.lisa_n_layers is not None,
        "neftune_noise_alpha": embedding.neftune_noise_alpha is not None,
        "log_source_loss": logging.log_source_loss,
    }
    for name, is_on in found.items():
        if is_on:
            yield Finding(name, f"`{name}` does not work with `{switch}`", f"Remove `{name}`.")


def find_dropout(switch: str, adapter: AdapterSection) -> Iterator[Finding]:
    """Dropout, which models that are compared have not."""
    if adapter.lora_dropout:
        yield Finding(
            "lora_dropout",
            f"`lora_dropout: {adapter.lora_dropout:g}` has no effect with `{switch}`: "
            "models that are compared have no dropout",
            "Set it to 0, or remove it.",
            "warning",
        )

"""Figures for people."""

from __future__ import annotations


def show_figure(value: float) -> str:
    """A figure with about four digits."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}" if abs(value) < 1e6 else f"{value:.3e}"

"""Figures for people."""

from __future__ import annotations


def show_figure(value: float) -> str:
    """A figure with about four digits."""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}" if abs(value) < 1e6 else f"{value:.3e}"


def show_change(value: float) -> str:
    """A difference, with its sign; empty where there is none."""
    return f"{'-' if value < 0 else '+'}{show_figure(abs(value))}" if value else ""


def show_size(count: int) -> str:
    """Bytes, for people."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"

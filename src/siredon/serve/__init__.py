"""Artifact -> answers.

engines/   what generates, one file each
chat.py    one prompt, several prompts, or a prompt loop
"""

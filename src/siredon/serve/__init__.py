"""Artifact -> answers.

engines/         what generates, one file each
chat.py          one prompt, several prompts, or a prompt loop
batch.py         a file of questions
terminal.py      a conversation: talk.py says what it is, commands/ what may be typed in it
conversation.py  what was read is kept from turn to turn
"""

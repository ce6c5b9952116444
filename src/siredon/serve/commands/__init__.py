"""The commands of the chat, one file each."""

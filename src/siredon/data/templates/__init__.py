"""Chat templates, one file each; the file name is the word in `chat_template:`.  Each defines `TEMPLATE`."""

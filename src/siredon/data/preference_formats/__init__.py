"""A shelf: formats of rows with a better and a worse answer.  A file is a word in `type:`; `FORMAT` is its part."""

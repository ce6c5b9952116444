"""One configuration trained many times: a file of values -> trials -> runs -> a table."""

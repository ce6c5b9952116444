"""How frozen weights come to few bits: one file per key that says so."""

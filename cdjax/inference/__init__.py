"""A model run over a data set, so many tokens at a time: what it says, does, and depends on."""

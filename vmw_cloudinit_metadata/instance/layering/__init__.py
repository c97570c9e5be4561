"""How an answer is put together from layers: merging, conditions, substitution. Pure."""

"""How right probabilities are, in all and by group, and what of the population the data have."""

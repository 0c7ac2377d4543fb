"""`rka-fast tune`: the search space, the study and what is told of it."""

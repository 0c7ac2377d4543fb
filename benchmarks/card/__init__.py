"""The steps of benchmarks/on_card.sh, which measures on a GPU what nothing else can tell."""

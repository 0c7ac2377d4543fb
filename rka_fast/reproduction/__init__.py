"""The paper's table from data files: registry -> cells -> summary -> significance -> tables."""

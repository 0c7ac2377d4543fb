"""The paper's table from files: data sets -> cells -> results -> significance -> tables."""

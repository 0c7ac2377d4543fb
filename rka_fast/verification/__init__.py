"""A backend held against the reference in float64, with bounds that are derived."""

"""From histories to lists of items: one path of scoring that every way of recommending takes."""

"""What runs are worth, side by side, as numbers; `rka_fast.pages` shows them."""

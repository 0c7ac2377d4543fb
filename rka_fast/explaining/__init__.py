"""Why a run recommends what it does, as numbers; `rka_fast.pages` shows them."""

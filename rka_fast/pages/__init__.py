"""Numbers as HTML pages of one file each, that load nothing from anywhere."""

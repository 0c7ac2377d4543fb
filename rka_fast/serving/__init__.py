"""A trained model elsewhere: as a file, over HTTP, and on large catalogues."""

"""A trained model elsewhere: as a file and over HTTP."""

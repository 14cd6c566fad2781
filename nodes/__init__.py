"""The buttons: one file per family, each a schema and a few lines of execute()."""

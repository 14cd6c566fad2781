"""Commands of the repository, each run from its root: `python -m scripts.demo` and so on."""

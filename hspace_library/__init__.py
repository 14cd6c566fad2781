"""Beyond one graph on one card: a library of concepts on any checkpoints, and the paper's tables, on as many GPUs as
there are.

    hspace-library build library.yaml --out DIR           `python -m hspace_library` in a checkout
    hspace-evaluate fair --checkpoint FILE --vectors DIR   `python -m hspace_library.evaluation`

The nodes know nothing of it. Ray spreads the work; it comes with `pip install .[scale]`.
"""

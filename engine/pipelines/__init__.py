"""Several runs as one: chains of stages, comparisons of methods, their scores, the forgetting report, and deleting.

Imports every other room of the engine; the command line, the estimator's advice and the page may import it.
"""

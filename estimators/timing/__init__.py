"""Seconds: a roofline over the recorded operations, and what runs have really taken.

Imports simulate; the estimator, the advice and the page may import it.
"""

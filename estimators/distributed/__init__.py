"""Several GPUs: what each of them holds under a sharding, and what they send each other.

Imports simulate and memory; the estimator may import it.
"""

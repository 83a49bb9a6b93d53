"""What to choose: fixes, limits, the parameter budget, tables of GPUs and methods, costs of chains and comparisons.

Imports the estimator and the rooms before it; the service and the page may import it.
"""

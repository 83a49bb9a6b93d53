"""The form of a plan and what is asked about it: fixes, limits, the budget, the tables of GPUs and methods.

Imports views and web; the tabs may import it.
"""

"""Runs in the background: started, listed, stopped, resumed, and series of them.

Imports data, modeling and the rooms before them; the worker, inference, export and pipelines may import it.
"""

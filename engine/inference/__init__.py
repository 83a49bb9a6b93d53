"""Answers of trained models: the process that gives them, the page's side of it, several adapters on one base, predictions.

Imports jobs, modeling, recipes and the rooms before them; export, pipelines and the page may import it.
"""

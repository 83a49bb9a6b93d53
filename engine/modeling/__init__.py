"""The model of a plan as it will be trained: built, with its processor, its checkpoints and the X-ray of what it will read.

Imports data, objectives, methods and the rooms before them; the estimator and the worker both build their models here.
"""

"""What a plan will need: memory, time, money, parameters, found by a dry run of the real training step.

The web process uses `estimators.service.client` (no torch in there); the dry runs happen in a process of their own.
"""

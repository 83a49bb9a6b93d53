"""What a plan will need: memory, time, money, parameters, found by a dry run of the real training step.

estimator.py answers; its rooms are simulate, memory, distributed, timing, advice, service, each importing only those before it.
Imports the engine; the page may import it.
"""

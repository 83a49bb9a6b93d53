"""What a fine-tune is and how it runs: plan, methods, data, build, train, runs, merge, export.

Importing the package is cheap on purpose: torch, transformers and peft are imported inside the functions that
need them, so that the web process serves its first page without them.
"""

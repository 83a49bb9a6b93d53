"""The computer and its processes: the data folder, workers and helper processes, events, errors in plain words, secrets.

Imports only engine.issues; every room may import it.
"""

"""The estimator as a process: the page's side of it, its questions about data, and its answers in words.

Imports every other room of the estimators; the page may import it.
"""

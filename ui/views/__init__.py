"""What is shown, as pure functions from values to HTML and charts: figures in words, cards, curves, the theme.

Imports the engine and the estimators' answers; every other room of the page may import it.
"""

"""The page: Gradio only. One module per tab, charts and the fit card as pure functions.

A handler reads its inputs, makes one call to `estimators` or `engine`, and shows the answer. Nothing here computes
what a plan needs, trains, or remembers a run: a session holds a run's id and what it has drawn of it so far.
"""

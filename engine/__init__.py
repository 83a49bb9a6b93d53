"""What a fine-tune is and how it runs, in rooms: system, catalog, adapters, methods, objectives, data, modeling, recipes, jobs,
inference, export, pipelines. Each imports only those before it (tests/test_imports.py has the order), and nothing of
`estimators` or `ui`. Beside them the plan (plan.py), what is wrong with one (issues.py, checks.py) and the worker (train.py).
"""

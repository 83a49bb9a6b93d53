"""The page, Gradio only: page.py puts it together; its rooms are views, web, plan and tabs, each importing those before it.

No arithmetic and no training here. Imports the engine and the estimators; only app.py imports it.
"""

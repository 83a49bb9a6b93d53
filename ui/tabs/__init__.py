"""The tabs of the page, one module each: `build` lays it out, `wire` connects its events.

Imports views, web and plan; only page.py imports it.
"""

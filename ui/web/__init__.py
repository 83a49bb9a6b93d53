"""The web border: what stands between a visitor and the page."""

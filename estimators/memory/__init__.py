"""Memory beside the training step: what lies outside of the allocator, and a run's other phases.

Imports simulate; distributed and the estimator may import it.
"""

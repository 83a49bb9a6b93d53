"""One training step without memory: the dry run on fake tensors, its trace, the stack of layers, the caching allocator.

Imports the engine alone; every room of the estimators may import it.
"""

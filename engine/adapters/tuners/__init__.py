"""Adapters of this program's own, registered with PEFT the way its own are: importing this package makes them known."""

from engine.adapters.tuners import bottleneck

__all__ = ["bottleneck"]

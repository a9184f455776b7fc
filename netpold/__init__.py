"""Enforces Kubernetes network policies on this node, from files."""

__version__ = "0.1.0"

"""Checks before a sweep or a service: this machine, a cluster file, or every node of a cluster.

Knows Ray's core and the sweep's storage, and neither Ray Tune nor Ray Serve.
"""

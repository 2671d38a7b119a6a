"""Servers on one machine: the local stack, SeaweedFS, and the processes that run them."""

"""The source: a service that generates financial transactions, the same in every response.

It imports nothing of the platform, which uses it over HTTP and by entry points only.
"""

"""The source: a service that invents financial transactions, the same ones whenever asked.

It imports nothing of the platform, and the platform reaches it over HTTP only.
"""

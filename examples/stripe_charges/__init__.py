"""Charges of Stripe beside the generator; docs/own-api.md explains it."""

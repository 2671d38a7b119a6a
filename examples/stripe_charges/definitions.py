"""The generator and Stripe side by side: `dagster dev -m examples.stripe_charges.definitions`."""

import dagster as dg

from examples.stripe_charges.feed import STRIPE
from txn_platform.definitions import build_defs, feed_defs

defs = dg.Definitions.merge(build_defs(), feed_defs(STRIPE))

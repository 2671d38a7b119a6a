"""Charges of Stripe: the contract, and how its API is asked."""

import os
from datetime import timedelta

import dataframely as dy

from txn_platform.contract.columns import code, text, unix_seconds, whole
from txn_platform.contract.model import Contract
from txn_platform.feeds import Feed
from txn_platform.source.api import SourceApi
from txn_platform.source.auth import Secret, bearer
from txn_platform.source.pages import AfterLast


class Charge(dy.Schema):
    """A charge, as `GET /v1/charges` has it."""

    charge_id = text("The charge", path="id", role="id", regex=r"^ch_\w+$")
    created = unix_seconds("When it was made", role="time")
    amount = whole("In the smallest unit of its currency", role="amount", min=0)
    currency = text("ISO 4217, lower case", role="group", regex=r"^[a-z]{3}$")
    status = code("How it ended", ["succeeded", "pending", "failed"])
    customer = text("The customer", nullable=True, regex=r"^cus_\w+$")
    brand = text("Of the card", path="payment_method_details.card.brand", nullable=True)
    last4 = text("Of the card", path="payment_method_details.card.last4", nullable=True)
    description = text("As it was typed", nullable=True)


STRIPE = Feed(
    prefix="stripe",
    contract=Contract("charge", "1", Charge),
    url=os.environ.get("STRIPE_URL", "https://api.stripe.com"),
    api=SourceApi(
        "/v1/charges?created[gte]={start:unix}&created[lt]={end:unix}&limit=100",
        pages=AfterLast("starting_after", field="id", more="has_more"),
        auth=bearer(Secret("STRIPE_API_KEY")),
        lag=timedelta(hours=2),
    ),
)

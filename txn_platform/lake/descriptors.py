"""The descriptors of the lake, beside its tables: `datapackage.json` and `contract.odcs.yaml`.

`contract/descriptors` has their content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txn_platform.contract.descriptors import (
    CONTRACT_NAME,
    PACKAGE_NAME,
    data_contract,
    data_package,
)
from txn_platform.contract.schema import TRANSACTIONS
from txn_platform.errors import UserError
from txn_platform.logs import logger

if TYPE_CHECKING:
    from txn_platform.contract.card_forms import CardForm
    from txn_platform.contract.model import Contract
    from txn_platform.lake.base import Lake

_LOG: Final = logger(__name__)


def write_descriptors(
    lake: Lake, card_form: CardForm, contract: Contract = TRANSACTIONS, folder: str = ""
) -> None:
    """Put the descriptors into a lake that lacks them, or that has other ones.

    A failure is a warning in the log: the rows do not need them, and the next run tries again.

    Args:
        lake: that is described.
        card_form: the form of published card numbers.
        contract: on the published rows.
        folder: of the lake that has the tables; empty for its root.
    """
    contents = {
        PACKAGE_NAME: data_package(contract, card_form=card_form),
        CONTRACT_NAME: data_contract(lake.uri(folder), contract, card_form=card_form),
    }
    try:
        for name, content in contents.items():
            lake.put_text(f"{folder}/{name}" if folder else name, content)
    except UserError as error:
        _LOG.warning("the descriptors of the lake could not be written: %s", error)

"""What each vendor can do, written by hand: the promise that everything else is held against."""

from collections.abc import Iterator
from typing import Final

from loyalty.v1 import providers_pb2

CONNECTIONS: Final = ("cashassist", "cardsapi", "loyalife", "openloyaltypay")
"""The columns; each vendor's connection has its name."""

BLANK: Final = ""
"""The vendor cannot do it, and is not asked."""

SUPPORT: Final = {
    BLANK: providers_pb2.SUPPORT_UNSUPPORTED,
    "native": providers_pb2.SUPPORT_NATIVE,
    "emulated": providers_pb2.SUPPORT_EMULATED,
}

_TABLE: Final = """
Cards.SearchCards          | emulated | native   | native   | emulated
Cards.GetCard              | native   | emulated | native   | native
Cards.CreateCard           | native   |          | native   |
Cards.UpdateCard           | native   |          | native   |
Cards.VerifyCardOwnership  | native   |          |          |
Cards.ListTransactions     | native   |          | native   |
Cards.ListTransactionItems | native   |          |          |
Wallets.CreateChallenge    | native   |          | native   |
Wallets.VerifyChallenge    | native   |          | native   |
Wallets.CreateWallet       | native   |          | native   |
Wallets.GetWallet          | native   |          | native   |
Wallets.UpdateWallet       | native   |          | native   |
Wallets.LinkAccount        |          |          | native   |
Wallets.ListLinkedAccounts |          |          | native   |
Wallets.VerifyCredentials  |          |          | native   |
Balance.GetBalance         | native   | emulated | native   | native
Balance.TopUpBalance       | native   |          |          |
Balance.DebitBalance       | native   | native   |          |
Points.EarnPoints          |          |          | native   | native
Points.RedeemPoints        | native   |          | native   | native
Points.ReversePoints       |          |          | native   |
Points.GetPointsStatement  | emulated |          | emulated |
Points.ListExpiringPoints  |          |          | native   |
Gift.ActivateGiftCard      |          |          |          | native
Gift.GetGiftCard           |          |          |          | native
Gift.TopUpGiftCard         |          |          |          | native
Gift.PayWithGiftCard       |          |          |          | native
Gift.VoidGiftTransaction   |          |          |          | native
Gift.AddGiftTip            |          |          |          | native
"""

Cell = tuple[str, str]
"""An rpc as `Service.Method`, and a connection."""


def _cells() -> Iterator[tuple[Cell, str]]:
    for line in _TABLE.strip().splitlines():
        rpc, *words = (word.strip() for word in line.split("|"))
        for connection, word in zip(CONNECTIONS, words, strict=True):
            yield (rpc, connection), word


MATRIX: Final = dict(_cells())
"""The word of every cell."""

FILLED: Final = tuple(cell for cell, word in MATRIX.items() if word)
EMPTY: Final = tuple(cell for cell, word in MATRIX.items() if not word)
RPCS: Final = tuple(dict.fromkeys(rpc for rpc, _ in MATRIX))


def cell_id(cell: Cell) -> str:
    """How a test about a cell is called."""
    return f"{cell[1]}-{cell[0]}"

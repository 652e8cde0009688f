"""One row per rpc of the contract: how it is read, what it asks of the engine, how it is answered.

A method of the contract without a row, or a row without a method, stops the start.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message

from loyalty.v1 import (
    balance_pb2,
    bookings_pb2,
    cards_pb2,
    gift_pb2,
    options_pb2,
    points_pb2,
    providers_pb2,
    wallets_pb2,
)
from loyalty_gateway.booking.calls import (
    BookingCall,
    BookingFilter,
    BookingKey,
    Capability,
    ChallengeCall,
    ChallengeIssued,
    CodeCall,
    ConnectionCheck,
    ConnectionFacts,
    CredentialsCall,
    Decision,
    OwnershipCall,
    Promise,
    ReadAnswer,
    ReadCall,
    Verified,
)
from loyalty_gateway.domain.booking import Answer, Booking, Story
from loyalty_gateway.domain.errors import Reason, Violation
from loyalty_gateway.domain.operations import CredentialsFacts, Kind
from loyalty_gateway.rpc.codec import balance, bookings, cards, gift, points, providers, wallets
from loyalty_gateway.rpc.codec.types import Envelope

SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service
    for module in (
        cards_pb2,
        wallets_pb2,
        balance_pb2,
        points_pb2,
        gift_pb2,
        bookings_pb2,
        providers_pb2,
    )
    for service in module.DESCRIPTOR.services_by_name.values()
)
"""The services of the contract."""

KINDS: dict[options_pb2.RpcKind.ValueType, Kind] = {
    options_pb2.RPC_KIND_READ: Kind.READ,
    options_pb2.RPC_KIND_BOOKING: Kind.BOOKING,
    options_pb2.RPC_KIND_CHALLENGE: Kind.CHALLENGE,
    options_pb2.RPC_KIND_CONTROL: Kind.CONTROL,
}


class Engine(Protocol):
    """What the wire asks of the booking room. Every method raises LoyaltyError.

    `book` and the four of a challenge answer by the call's own deadline, whatever happens: the
    door sets them no limit, because it could not tell what was done.
    """

    async def book(self, call: BookingCall) -> Answer: ...
    async def read(self, call: ReadCall) -> ReadAnswer: ...
    async def create_challenge(self, call: ChallengeCall) -> ChallengeIssued: ...
    async def verify_challenge(self, call: CodeCall) -> Verified: ...
    async def verify_ownership(self, call: OwnershipCall) -> Verified: ...
    async def verify_credentials(self, call: CredentialsCall) -> CredentialsFacts: ...
    async def get(self, tenant: str, key: BookingKey) -> Booking: ...
    async def list(self, tenant: str, filter: BookingFilter) -> tuple[tuple[Booking, ...], str]: ...
    async def cancel(self, tenant: str, key: BookingKey, deadline: float) -> Booking: ...
    async def resolve(
        self,
        tenant: str,
        booking_id: str,
        decision: Decision | None,
        actor: str,
        deadline: float,
    ) -> Booking: ...
    async def explain(self, tenant: str, key: BookingKey) -> Story: ...
    async def connections(self, tenant: str) -> tuple[ConnectionFacts, ...]: ...
    async def capabilities(self, tenant: str, connection: str) -> tuple[Capability, ...]: ...
    async def check(self, tenant: str, connection: str) -> ConnectionCheck: ...
    async def prove(self, tenant: str, connection: str) -> tuple[Promise, ...]: ...


Request = TypeVar("Request", bound=Message)
Call = TypeVar("Call")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Row(Generic[Request, Call, Found]):
    """How one rpc is served.

    `decode` is total: whatever parses gives a call, and what cannot be accepted is added to the
    violations. `encode` is None for a booking, whose answer is bytes already. `late` is the
    reason given when the engine has let the deadline pass; bookings and challenges have none.
    """

    decode: Callable[[Request, Envelope, list[Violation]], Call]
    run: Callable[[Engine, Envelope, Call], Awaitable[Found]]
    encode: Callable[[Found], Message] | None
    late: Reason = Reason.JOURNAL_UNAVAILABLE


async def _book(engine: Engine, envelope: Envelope, call: BookingCall) -> Answer:
    return await engine.book(call)


async def _read(engine: Engine, envelope: Envelope, call: ReadCall) -> ReadAnswer:
    return await engine.read(call)


async def _create_challenge(
    engine: Engine, envelope: Envelope, call: ChallengeCall
) -> ChallengeIssued:
    return await engine.create_challenge(call)


async def _verify_challenge(engine: Engine, envelope: Envelope, call: CodeCall) -> Verified:
    return await engine.verify_challenge(call)


async def _verify_ownership(engine: Engine, envelope: Envelope, call: OwnershipCall) -> Verified:
    return await engine.verify_ownership(call)


async def _verify_credentials(
    engine: Engine, envelope: Envelope, call: CredentialsCall
) -> CredentialsFacts:
    return await engine.verify_credentials(call)


async def _get(engine: Engine, envelope: Envelope, key: BookingKey) -> Booking:
    return await engine.get(envelope.tenant, key)


async def _list(
    engine: Engine, envelope: Envelope, filter: BookingFilter
) -> tuple[tuple[Booking, ...], str]:
    return await engine.list(envelope.tenant, filter)


async def _cancel(engine: Engine, envelope: Envelope, key: BookingKey) -> Booking:
    return await engine.cancel(envelope.tenant, key, envelope.deadline)


async def _resolve(engine: Engine, envelope: Envelope, resolution: bookings.Resolution) -> Booking:
    return await engine.resolve(
        envelope.tenant,
        resolution.booking_id,
        resolution.decision,
        envelope.actor,
        envelope.deadline,
    )


async def _explain(engine: Engine, envelope: Envelope, key: BookingKey) -> Story:
    return await engine.explain(envelope.tenant, key)


async def _connections(
    engine: Engine, envelope: Envelope, page: providers.ConnectionPage
) -> tuple[Sequence[ConnectionFacts], str]:
    return providers.cut_page(page, await engine.connections(envelope.tenant))


async def _capabilities(
    engine: Engine, envelope: Envelope, connection: str
) -> tuple[Capability, ...]:
    return await engine.capabilities(envelope.tenant, connection)


async def _check(engine: Engine, envelope: Envelope, connection: str) -> ConnectionCheck:
    return await engine.check(envelope.tenant, connection)


async def _prove(engine: Engine, envelope: Envelope, connection: str) -> tuple[Promise, ...]:
    return await engine.prove(envelope.tenant, connection)


def _encode_get_capabilities(
    capabilities: tuple[Capability, ...],
) -> providers_pb2.GetCapabilitiesResponse:
    """One capability for every rpc of the contract.

    What the engine does not name, no provider is asked for: the services that only speak of
    the journal and of this gateway are native everywhere, all others are unsupported.
    """
    known = {(it.operation.service, it.operation.method): it for it in capabilities}
    response = providers_pb2.GetCapabilitiesResponse()
    for service in SERVICES:
        for method in service.methods:
            capability = known.get((service.name, method.name))
            if capability is not None:
                response.capabilities.append(providers.encode_capability(capability))
                continue
            is_own = service.name in _OWN_SERVICES
            response.capabilities.add(
                service=service.name,
                method=method.name,
                support=(
                    providers_pb2.SUPPORT_NATIVE if is_own else providers_pb2.SUPPORT_UNSUPPORTED
                ),
            )
    return response


_OWN_SERVICES = frozenset({"Bookings", "Providers"})


def _booking(
    decode: Callable[[Request, Envelope, list[Violation]], BookingCall],
) -> Row[Any, Any, Any]:
    """A booking: its answer is stored bytes, and the engine keeps its deadline."""
    return Row(decode, _book, None)


def _reading(
    decode: Callable[[Request, Envelope, list[Violation]], ReadCall],
    encode: Callable[[ReadAnswer], Message],
) -> Row[Any, Any, Any]:
    """A read at a provider."""
    return Row(decode, _read, encode, Reason.PROVIDER_UNREACHABLE)


CATALOG: Mapping[str, Row[Any, Any, Any]] = {
    "loyalty.v1.Cards/SearchCards": _reading(cards.decode_search_cards, cards.encode_search_cards),
    "loyalty.v1.Cards/GetCard": _reading(cards.decode_get_card, cards.encode_get_card),
    "loyalty.v1.Cards/CreateCard": _booking(cards.decode_create_card),
    "loyalty.v1.Cards/UpdateCard": _booking(cards.decode_update_card),
    "loyalty.v1.Cards/VerifyCardOwnership": Row(
        cards.decode_verify_card_ownership, _verify_ownership, cards.encode_verify_card_ownership
    ),
    "loyalty.v1.Cards/ListTransactions": _reading(
        cards.decode_list_transactions, cards.encode_list_transactions
    ),
    "loyalty.v1.Cards/ListTransactionItems": _reading(
        cards.decode_list_transaction_items, cards.encode_list_transaction_items
    ),
    "loyalty.v1.Wallets/CreateChallenge": Row(
        wallets.decode_create_challenge, _create_challenge, wallets.encode_create_challenge
    ),
    "loyalty.v1.Wallets/VerifyChallenge": Row(
        wallets.decode_verify_challenge, _verify_challenge, wallets.encode_verify_challenge
    ),
    "loyalty.v1.Wallets/CreateWallet": _booking(wallets.decode_create_wallet),
    "loyalty.v1.Wallets/GetWallet": _reading(wallets.decode_get_wallet, wallets.encode_get_wallet),
    "loyalty.v1.Wallets/UpdateWallet": _booking(wallets.decode_update_wallet),
    "loyalty.v1.Wallets/LinkAccount": _booking(wallets.decode_link_account),
    "loyalty.v1.Wallets/ListLinkedAccounts": _reading(
        wallets.decode_list_linked_accounts, wallets.encode_list_linked_accounts
    ),
    "loyalty.v1.Wallets/VerifyCredentials": Row(
        wallets.decode_verify_credentials, _verify_credentials, wallets.encode_verify_credentials
    ),
    "loyalty.v1.Balance/GetBalance": _reading(
        balance.decode_get_balance, balance.encode_get_balance
    ),
    "loyalty.v1.Balance/TopUpBalance": _booking(balance.decode_top_up_balance),
    "loyalty.v1.Balance/DebitBalance": _booking(balance.decode_debit_balance),
    "loyalty.v1.Points/EarnPoints": _booking(points.decode_earn_points),
    "loyalty.v1.Points/RedeemPoints": _booking(points.decode_redeem_points),
    "loyalty.v1.Points/ReversePoints": _booking(points.decode_reverse_points),
    "loyalty.v1.Points/GetPointsStatement": _reading(
        points.decode_get_points_statement, points.encode_get_points_statement
    ),
    "loyalty.v1.Points/ListExpiringPoints": _reading(
        points.decode_list_expiring_points, points.encode_list_expiring_points
    ),
    "loyalty.v1.Gift/ActivateGiftCard": _booking(gift.decode_activate_gift_card),
    "loyalty.v1.Gift/GetGiftCard": _reading(gift.decode_get_gift_card, gift.encode_get_gift_card),
    "loyalty.v1.Gift/TopUpGiftCard": _booking(gift.decode_top_up_gift_card),
    "loyalty.v1.Gift/PayWithGiftCard": _booking(gift.decode_pay_with_gift_card),
    "loyalty.v1.Gift/VoidGiftTransaction": _booking(gift.decode_void_gift_transaction),
    "loyalty.v1.Gift/AddGiftTip": _booking(gift.decode_add_gift_tip),
    "loyalty.v1.Bookings/GetBooking": Row(bookings.decode_key, _get, bookings.encode_get_booking),
    "loyalty.v1.Bookings/ListBookings": Row(
        bookings.decode_list_bookings, _list, bookings.encode_list_bookings
    ),
    "loyalty.v1.Bookings/CancelBooking": Row(
        bookings.decode_key,
        _cancel,
        bookings.encode_cancel_booking,
        Reason.BOOKING_IN_PROGRESS,
    ),
    "loyalty.v1.Bookings/ResolveBooking": Row(
        bookings.decode_resolve_booking,
        _resolve,
        bookings.encode_resolve_booking,
        Reason.BOOKING_IN_PROGRESS,
    ),
    "loyalty.v1.Bookings/ExplainBooking": Row(
        bookings.decode_key, _explain, bookings.encode_explain_booking
    ),
    "loyalty.v1.Providers/ListConnections": Row(
        providers.decode_list_connections, _connections, providers.encode_list_connections
    ),
    "loyalty.v1.Providers/GetCapabilities": Row(
        providers.decode_get_capabilities, _capabilities, _encode_get_capabilities
    ),
    "loyalty.v1.Providers/CheckConnection": Row(
        providers.decode_check_connection,
        _check,
        providers.encode_check_connection,
        Reason.PROVIDER_UNREACHABLE,
    ),
    "loyalty.v1.Providers/ProveConnection": Row(
        providers.decode_prove_connection,
        _prove,
        providers.encode_prove_connection,
        Reason.BOOKING_IN_PROGRESS,
    ),
}
"""Every rpc of the contract by `package.Service/Method`."""


class CatalogError(RuntimeError):
    """The catalog and the contract do not fit each other; the server must not start."""


@dataclass(frozen=True, slots=True)
class Rpc:
    """An rpc of the contract joined with its row; scope and kind are the contract's own."""

    name: str
    scope: str
    kind: Kind
    descriptor: MethodDescriptor
    row: Row[Any, Any, Any]


def join_catalog(
    services: Sequence[ServiceDescriptor] = SERVICES,
    catalog: Mapping[str, Row[Any, Any, Any]] = CATALOG,
) -> tuple[Rpc, ...]:
    """Every rpc with its row.

    Raises:
        CatalogError: naming each method without a row, each row without a method and each
            method whose option or row is incomplete.
    """
    methods = {
        f"{service.full_name}/{method.name}": method
        for service in services
        for method in service.methods
    }
    problems = [f"no row for {name}" for name in sorted(methods.keys() - catalog.keys())]
    problems += [f"no method for {name}" for name in sorted(catalog.keys() - methods.keys())]
    joined: list[Rpc] = []
    for name, method in methods.items():
        if name not in catalog:
            continue
        option = method.GetOptions().Extensions[options_pb2.rpc]
        kind = KINDS.get(option.kind)
        row = catalog[name]
        if kind is None or not option.scope:
            problems.append(f"{name} does not state its scope and kind")
            continue
        if (kind is Kind.BOOKING) != (row.encode is None):
            problems.append(f"{name} is {kind} in the contract, its row says otherwise")
        joined.append(Rpc(name, option.scope, kind, method, row))
    if problems:
        raise CatalogError("the contract and the catalog differ: " + "; ".join(problems))
    return tuple(joined)

"""What every rpc, message and error reason of the contract says about itself."""

import json
import re
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2, json_format
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.rpc import code_pb2, error_details_pb2

from loyalty.v1 import (
    balance_pb2,
    bookings_pb2,
    cards_pb2,
    errors_pb2,
    gift_pb2,
    options_pb2,
    points_pb2,
    providers_pb2,
    types_pb2,
    wallets_pb2,
)

SERVICES: dict[str, ServiceDescriptor] = {
    name: service
    for module in (
        cards_pb2,
        wallets_pb2,
        balance_pb2,
        points_pb2,
        gift_pb2,
        bookings_pb2,
        providers_pb2,
    )
    for name, service in module.DESCRIPTOR.services_by_name.items()
}
METHODS: list[MethodDescriptor] = [
    method for service in SERVICES.values() for method in service.methods
]
SCOPES = {
    "cards:read",
    "cards:write",
    "wallets:read",
    "wallets:write",
    "balance:read",
    "balance:book",
    "points:read",
    "points:book",
    "gift:read",
    "gift:book",
    "bookings:read",
    "bookings:cancel",
    "bookings:resolve",
    "providers:read",
    "admin",
}
METADATA_KEYS = {
    "outcome",
    "final",
    "booking",
    "request_id",
    "connection",
    "provider",
    "provider_code",
    "error_id",
    "field",
}
ERROR_ENUM = "ErrorReason"
PREFIX = "ERROR_REASON_"

each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)


def options_of(method: MethodDescriptor) -> options_pb2.RpcOptions:
    options: options_pb2.RpcOptions = method.GetOptions().Extensions[options_pb2.rpc]
    return options


def test_the_services_are_the_given_ones() -> None:
    assert set(SERVICES) == {
        "Cards",
        "Wallets",
        "Balance",
        "Points",
        "Gift",
        "Bookings",
        "Providers",
    }


@each_method
def test_every_rpc_says_which_scope_it_needs(method: MethodDescriptor) -> None:
    assert options_of(method).scope in SCOPES


@each_method
def test_every_rpc_says_which_path_it_takes(method: MethodDescriptor) -> None:
    assert options_of(method).kind != options_pb2.RPC_KIND_UNSPECIFIED


@each_method
def test_a_booking_carries_a_request_id_and_answers_its_booking(method: MethodDescriptor) -> None:
    if options_of(method).kind != options_pb2.RPC_KIND_BOOKING:
        assert not options_of(method).scope.endswith(":book")
        return
    request = method.input_type.fields_by_name
    assert {"request_id", "options"} <= set(request)
    # What it is booked on: an account that is there, one that shall be made, or an earlier booking.
    assert {"account", "connection", "original"} & set(request)
    assert request["options"].message_type is types_pb2.BookingOptions.DESCRIPTOR
    answer = method.output_type.fields_by_name["booking"]
    assert answer.message_type is types_pb2.Booking.DESCRIPTOR


def fields_of(
    messages: "list[descriptor_pb2.DescriptorProto]", path: str = ""
) -> Iterator[tuple[str, descriptor_pb2.FieldDescriptorProto]]:
    for message in messages:
        for field in message.field:
            yield f"{path}{message.name}.{field.name}", field
        yield from fields_of(list(message.nested_type), f"{path}{message.name}.")


def test_no_field_is_a_float(contract_files: list[descriptor_pb2.FileDescriptorProto]) -> None:
    floats = {FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE}
    fields = [pair for file in contract_files for pair in fields_of(list(file.message_type))]
    assert len(fields) > 100
    assert [name for name, field in fields if field.type in floats] == []


def test_plain_ids_and_personal_data_are_marked_for_redaction(
    contract_files: list[descriptor_pb2.FileDescriptorProto],
) -> None:
    marked = {
        name
        for file in contract_files
        for name, field in fields_of(list(file.message_type))
        if field.options.debug_redact
    }
    assert marked == {
        "AccountRef.id",
        "Attribute.value",
        "Card.attributes",
        "CreateCardRequest.account_id",
        "CreateCardRequest.proof_token",
        "CreateChallengeRequest.email",
        "CreateChallengeRequest.phone",
        "CreateChallengeResponse.challenge_token",
        "CreateWalletRequest.account_id",
        "CreateWalletRequest.proof_token",
        "Holder.display_name",
        "Holder.family_name",
        "Holder.given_name",
        "LinkAccountRequest.proof_token",
        "LinkedAccount.id",
        "Profile.attributes",
        "Profile.birth_date",
        "Profile.display_name",
        "Profile.email",
        "Profile.family_name",
        "Profile.given_name",
        "Profile.phone",
        "Purchase.attributes",
        "Sale.cashier_id",
        "Scan.value",
        "SearchCardsRequest.email",
        "SearchCardsRequest.phone",
        "Transaction.narration",
        "VerifyCardOwnershipResponse.proof_token",
        "VerifyChallengeRequest.challenge_token",
        "VerifyChallengeRequest.code",
        "VerifyChallengeResponse.proof_token",
        "VerifyCredentialsRequest.password_hash",
        "WalletLinks.apple",
        "WalletLinks.google",
    }


def reason_comments(files: list[descriptor_pb2.FileDescriptorProto]) -> dict[str, str]:
    """The comment of each error reason, by its name in ErrorInfo."""
    (file,) = (file for file in files if file.name.endswith("errors.proto"))
    (enum,) = file.enum_type
    assert enum.name == ERROR_ENUM
    comments = {
        tuple(location.path): location.leading_comments
        for location in file.source_code_info.location
    }
    enum_path, value_path = (5, 0), 2
    return {
        value.name.removeprefix(PREFIX): comments[(*enum_path, value_path, index)]
        for index, value in enumerate(enum.value)
        if value.number != errors_pb2.ERROR_REASON_UNSPECIFIED
    }


def test_every_error_reason_names_its_grpc_code(
    contract_files: list[descriptor_pb2.FileDescriptorProto],
) -> None:
    for reason, comment in reason_comments(contract_files).items():
        found = re.findall(r"^ gRPC code: ([A-Z_]+)\.$", comment, re.MULTILINE)
        assert len(found) == 1, reason
        assert code_pb2.Code.Value(found[0]) != code_pb2.OK


def test_every_error_reason_shows_an_example_of_itself(
    contract_files: list[descriptor_pb2.FileDescriptorProto],
) -> None:
    comments = reason_comments(contract_files)
    assert len(comments) == len(errors_pb2.ErrorReason.keys()) - 1
    for reason, comment in comments.items():
        example = json.loads(comment.partition("Example:")[2])
        info = json_format.ParseDict(example, error_details_pb2.ErrorInfo())
        assert (info.reason, info.domain) == (reason, "loyalty-gateway")
        assert set(info.metadata) <= METADATA_KEYS, reason


def test_an_example_is_final_only_with_a_known_outcome(
    contract_files: list[descriptor_pb2.FileDescriptorProto],
) -> None:
    for reason, comment in reason_comments(contract_files).items():
        metadata = json.loads(comment.partition("Example:")[2])["metadata"]
        assert ("final" in metadata) == ("outcome" in metadata), reason
        if metadata.get("outcome") == "UNKNOWN":
            assert metadata["final"] == "false", reason

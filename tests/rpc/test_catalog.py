"""The catalog covers the contract, and a hole in it stops the start."""

import importlib
import pkgutil

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

import loyalty.v1
from loyalty_gateway.domain.operations import BOOKING_OPERATIONS, Kind, Operation
from loyalty_gateway.rpc.catalog import CATALOG, SERVICES, CatalogError, join_catalog
from loyalty_gateway.rpc.codec.answers import ANSWERS


def test_every_service_that_was_generated_is_in_the_catalogs_services() -> None:
    generated = set()
    for module in pkgutil.iter_modules(loyalty.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"loyalty.v1.{module.name}").DESCRIPTOR
            generated |= {it.full_name for it in file.services_by_name.values()}
    assert generated == {service.full_name for service in SERVICES}


def test_every_method_has_its_row_with_the_contracts_own_scope_and_kind() -> None:
    joined = {rpc.name: rpc for rpc in join_catalog()}
    assert joined.keys() == CATALOG.keys()
    assert joined["loyalty.v1.Points/RedeemPoints"].scope == "points:book"
    assert joined["loyalty.v1.Points/RedeemPoints"].kind is Kind.BOOKING
    assert joined["loyalty.v1.Bookings/CancelBooking"].kind is Kind.CONTROL


def test_a_method_without_a_row_stops_the_start_with_its_name() -> None:
    catalog = {name: row for name, row in CATALOG.items() if not name.endswith("/GetCard")}
    with pytest.raises(CatalogError, match=r"no row for loyalty\.v1\.Cards/GetCard"):
        join_catalog(catalog=catalog)


def test_a_row_without_a_method_stops_the_start_with_its_name() -> None:
    catalog = dict(CATALOG)
    catalog["loyalty.v1.Cards/Burn"] = CATALOG["loyalty.v1.Cards/GetCard"]
    with pytest.raises(CatalogError, match=r"no method for loyalty\.v1\.Cards/Burn"):
        join_catalog(catalog=catalog)


def test_a_read_served_as_a_booking_stops_the_start_with_its_name() -> None:
    catalog = dict(CATALOG)
    catalog["loyalty.v1.Cards/GetCard"] = CATALOG["loyalty.v1.Points/RedeemPoints"]
    with pytest.raises(CatalogError, match=r"loyalty\.v1\.Cards/GetCard is READ"):
        join_catalog(catalog=catalog)


def test_a_method_that_states_no_scope_stops_the_start_with_its_name() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="bare.proto", package="bare", syntax="proto3")
    file.message_type.add(name="Ask")
    service = file.service.add(name="Bare")
    service.method.add(name="Do", input_type=".bare.Ask", output_type=".bare.Ask")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    catalog = {"bare.Bare/Do": CATALOG["loyalty.v1.Cards/GetCard"]}
    with pytest.raises(CatalogError, match=r"bare\.Bare/Do does not state its scope"):
        join_catalog([pool.FindServiceByName("bare.Bare")], catalog)


def test_the_operations_of_the_domain_are_the_contracts_rpcs() -> None:
    for operation in Operation:
        assert f"loyalty.v1.{operation.service}/{operation.method}" in CATALOG


def test_every_booking_has_an_encoder_for_its_stored_answer() -> None:
    bookings = {rpc.name for rpc in join_catalog() if rpc.kind is Kind.BOOKING}
    assert {f"loyalty.v1.{it.service}/{it.method}" for it in BOOKING_OPERATIONS} == bookings
    assert set(ANSWERS) == BOOKING_OPERATIONS

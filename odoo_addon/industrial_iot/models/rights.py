"""What a user may do, asked in the words of each series."""

from __future__ import annotations

from typing import Any


def check_model(model: Any, operation: str) -> None:
    """``AccessError`` unless the user of ``model`` may do this to some of its records."""
    if hasattr(model, "check_access"):
        model.browse().check_access(operation)
    else:
        model.check_access_rights(operation)


def check_records(records: Any, operation: str) -> None:
    """``AccessError`` unless the user of ``records`` may do this to all of them."""
    if hasattr(records, "check_access"):
        records.check_access(operation)
    else:
        records.check_access_rights(operation)
        records.check_access_rule(operation)


def check_field(model: Any, name: str, operation: str) -> None:
    """``AccessError`` unless the user of ``model`` may do this to that field."""
    if hasattr(model, "_check_field_access"):
        model._check_field_access(model._fields[name], operation)
    else:
        model.check_field_access_rights(operation, [name])


def readable(records: Any) -> Any:
    """Those of ``records`` that their user may read."""
    if hasattr(records, "_filtered_access"):
        return records._filtered_access("read")
    allowed = records.check_access_rights("read", raise_exception=False)
    return records._filter_access_rules("read") if allowed else records.browse()

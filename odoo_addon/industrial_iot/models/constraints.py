"""SQL constraints and partial unique indexes in the forms that all series know."""

from __future__ import annotations

from typing import Any

from odoo import models
from odoo.tools import SQL


def declare(body: dict[str, Any], **constraints: tuple[str, str]) -> None:
    """In a class body: ``declare(vars(), serial_unique=("UNIQUE(serial_number)", "what people are told"))``.

    From 18.1 on a constraint is an attribute of the class, before that an entry of ``_sql_constraints``; the newer
    series only warn of the older form and create nothing.
    """
    if hasattr(models, "Constraint"):
        body.update({f"_{name}": models.Constraint(*each) for name, each in constraints.items()})
    else:
        body["_sql_constraints"] = [(name, *each) for name, each in constraints.items()]


def ensure_index(model: models.BaseModel, name: str, definition: str, *, unique: bool = False) -> None:
    """In ``init()``: an index that a field or constraint cannot express, such as ``(device_id) WHERE waiting``.

    A changed definition needs another name: what exists under the name stays.
    """
    model.env.cr.execute(
        SQL(
            "CREATE %s IF NOT EXISTS %s ON %s %s",
            SQL("UNIQUE INDEX" if unique else "INDEX"),
            SQL.identifier(f"{model._table}_{name}"),
            SQL.identifier(model._table),
            SQL(definition),
        )
    )

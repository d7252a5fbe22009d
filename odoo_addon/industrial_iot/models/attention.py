"""Work for somebody: activities of types of their own, one for a record, that end when all is well again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

AT_A_TIME = 20
"""Of one transaction: a fleet that fails becomes some activities; the lists and the dashboard have them all."""


def responsible(env: Any, user: Any = None) -> Any:
    """``user`` where that is a person who may log in; else an administrator of the add-on, else Odoo's own."""
    if user and user.active and not user.share and not user._is_superuser():
        return user
    group = env.ref("industrial_iot.group_iiot_admin").sudo()
    members = group.all_user_ids if "all_user_ids" in group._fields else group.users
    people = members.filtered(lambda member: member.active and not member.share and not member._is_superuser())
    return people[:1] or env.ref("base.user_admin")


def ask(records: Any, kind: str, words: Callable[[Any], tuple[str, str]], user: Any = None) -> None:
    """An activity of the type ``kind`` (the end of its XML ID) for each record that has none.

    For ``user``, else for the responsible of the record's gateway, else for an administrator of the add-on; ``words``
    gives summary and note of a record, in the language of its context, which is that person's.
    """
    xmlid = f"industrial_iot.activity_{kind}"
    asked = set(records.activity_search([xmlid]).mapped("res_id"))
    for record in records.filtered(lambda each: each.id not in asked)[:AT_A_TIME]:
        person = responsible(record.env, user or _gateway_of(record).user_id)
        summary, note = words(record.with_context(lang=person.lang))
        record.activity_schedule(xmlid, summary=summary, note=note, user_id=person.id)


def _gateway_of(record: Any) -> Any:
    if record._name == "iiot.gateway":
        return record
    return (record if "gateway_id" in record._fields else record.device_id).gateway_id


def settle(records: Any, kind: str) -> None:
    """End what :func:`ask` has asked for."""
    if records:
        records.activity_unlink([f"industrial_iot.activity_{kind}"])

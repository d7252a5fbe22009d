from odoo import fields, release


class PlainMany2one(fields.Many2one):
    """A link without a foreign key, for rows that are written by the million or beside what people edit.

    A foreign key locks the row it points to for every row that is written, and that of a company is pointed to by all.
    What is deleted takes such rows along by itself, or leaves them to the removal by age.
    """

    def update_db_foreign_key(self, model, column):
        """None is made."""


def summed_up_by(function: str | None) -> dict[str, str | None]:
    """The attribute of a field by which groups of it are summed up, in the word of each series; None: not at all."""
    return {"aggregator" if release.version_info[:2] >= (18, 0) else "group_operator": function}

from lxml import etree
from odoo import api, models, release

CHATTER = """<div class="oe_chatter"><field name="message_follower_ids"/><field name="activity_ids"/>
<field name="message_ids"/></div>"""
SERIES = release.version_info[:2]
LABELS = ("confirm-label", "cancel-label")


class IrUiView(models.Model):
    """This add-on's views are written for the newest series; older ones have other names for some elements, or none."""

    _inherit = "ir.ui.view"

    if SERIES < (19, 0):

        @api.model_create_multi
        def create(self, vals_list):
            return super().create([self._iiot_older(values) for values in vals_list])

        def write(self, vals):
            return super().write(self._iiot_older(vals))

        def _iiot_older(self, values):
            if self.env.context.get("install_module") != "industrial_iot":
                return values
            archs = {name: values[name] for name in ("arch", "arch_base", "arch_db") if values.get(name)}
            older = older_arch if SERIES < (18, 0) else without_labels
            return {**values, **{name: older(arch) for name, arch in archs.items()}}


def older_arch(arch: str) -> str:
    """A view of the newer series in the words of 17: lists are trees, cards are boxes, chatters are spelled out."""
    root = etree.fromstring(arch.encode())
    for element in root.iter("list", "chatter", "t", "field", "button"):
        if element.tag == "button":
            for name in LABELS:  # 17 does not translate them, and says Ok and Cancel
                element.attrib.pop(name, None)
        elif element.tag == "field":
            if element.get("mode"):
                element.set("mode", element.get("mode").replace("list", "tree"))
        elif element.tag == "list":
            element.tag = "tree"
        elif element.tag == "chatter":
            older = etree.fromstring(CHATTER)
            older.tail = element.tail
            element.getparent().replace(element, older)
        elif element.get("t-name") == "menu":
            element.set("t-name", "kanban-menu")
        elif element.get("t-name") == "card":
            _make_box(element)
    return etree.tostring(root, encoding="unicode")


def without_labels(arch: str) -> str:
    """A view for 18: it refuses such labels in lists, and knows all else."""
    root = etree.fromstring(arch.encode())
    for button in root.iterfind(".//list//button") if root.tag != "list" else root.iter("button"):
        for name in LABELS:
            button.attrib.pop(name, None)
    return etree.tostring(root, encoding="unicode")


def _make_box(card: etree._Element) -> None:
    """17 wants one element that holds what is in a card, and that opens the record."""
    box = etree.Element("div", {"class": f"oe_kanban_global_click d-flex flex-column {card.attrib.pop('class', '')}"})
    box.text, card.text = card.text, None
    box.extend(list(card))
    card.append(box)
    card.set("t-name", "kanban-box")

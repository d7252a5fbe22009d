from odoo import _, models

from .attention import ask, settle
from .told import told


class IiotGateway(models.Model):
    """The promise, checked: what an appliance says that became of its readings, beside what Odoo has counted itself.

    Both figures are those of one moment: the appliance makes its report of what Odoo has confirmed to it, and Odoo
    counts before it confirms. So Odoo may be ahead by what is on its way, and is behind only if it lost something.
    """

    _inherit = "iiot.gateway"

    def _note_report(self, asked, **values):
        report = self.report_id
        first, was_right, parked = not report.start, self.ledger_adds_up, report.parked
        noted = super()._note_report(asked, **values)
        self._compare_ledger(first)
        if was_right and not self.ledger_adds_up:
            ask(self, "ledger", lambda gateway: gateway._unaccounted_words())
        elif not was_right and self.ledger_adds_up:
            settle(self, "ledger")
        if report.parked > parked:
            ask(self, "set_aside", lambda gateway: gateway._set_aside_words())
        elif parked and not report.parked:
            settle(self, "set_aside")
        return noted

    def _unaccounted_words(self):
        return _("Readings are not accounted for"), self._ledger_words()

    def _set_aside_words(self):
        return _("Messages were set aside"), _(
            "Odoo has refused them for good. The gateway keeps them, and its page Messages says why each was refused."
        )

    def _compare_ledger(self, first):
        """``first``: the appliance has never reported before; what it delivered until now went elsewhere."""
        report = self.report_id
        counted = report.readings_stored
        before = max(0, report.ledger_stored - counted) if first else report.ledger_before
        kept = report.ledger_stored + report.ledger_waiting + report.ledger_parked + report.ledger_removed
        # what waits may be among what Odoo lacks: after a restore of its database it comes again
        short = max(0, report.ledger_stored - before - counted - report.ledger_waiting)
        figures = {
            "ledger_counted": counted,
            "ledger_before": before,
            "ledger_gap": report.ledger_received - kept,
            "ledger_short": short,
        }
        report.write({name: value for name, value in figures.items() if report[name] != value})

    def action_accept_ledger(self):
        """Count from here: what is missing was looked into, and will not come."""
        self.ensure_one()
        self.check_access_rights_for_write()
        report = self.sudo().report_id
        accepted = _("%s missing readings were accepted.", f"{int(report.ledger_short):,}")
        self.sudo().message_post(body=accepted)
        report.write({"ledger_before": report.ledger_before + report.ledger_short, "ledger_short": 0})
        settle(self.sudo(), "ledger")
        return told(self.display_name, accepted)

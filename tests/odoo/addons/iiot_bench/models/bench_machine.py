from odoo import fields, models


class BenchMachine(models.Model):
    """A business record with a field of each kind that a telemetry rule can write."""

    _name = "bench.machine"
    _description = "Machine of the Benchmark"

    name = fields.Char(required=True)
    company_id = fields.Many2one("res.company", default=lambda self: self.env.company)
    temperature = fields.Float()
    strokes = fields.Integer()
    is_running = fields.Boolean()
    note = fields.Text()
    mode = fields.Selection([("auto", "Automatic"), ("hand", "By hand")])
    checked_on = fields.Date()
    seen_at = fields.Datetime()
    currency_id = fields.Many2one("res.currency", default=lambda self: self.env.company.currency_id)
    cost = fields.Monetary()

/** @odoo-module **/

import { Component } from "@odoo/owl";
import { deserializeDateTime } from "@web/core/l10n/dates";
import { registry } from "@web/core/registry";
import { standardFieldProps } from "@web/views/fields/standard_field_props";

/**
 * A table that the server made: `{head: [text], rows: [{cells: [text], look: "success"|"warning"|"danger"|"muted"}],
 * note: text}`. A cell `{time: "2026-11-29 17:03:41"}` is UTC, and shown as Odoo shows times. Nothing of it is markup.
 */
export class TableField extends Component {
    static template = "industrial_iot.TableField";
    static props = { ...standardFieldProps };

    get table() {
        return this.props.record.data[this.props.name] || {};
    }

    text(cell) {
        if (!cell || !cell.time) {
            return cell;
        }
        return registry.category("formatters").get("datetime")(deserializeDateTime(cell.time), { showSeconds: true });
    }

    look(row) {
        return row.look ? `text-${row.look}` : "";
    }
}

registry.category("fields").add("iiot_table", { component: TableField, supportedTypes: ["json"] });

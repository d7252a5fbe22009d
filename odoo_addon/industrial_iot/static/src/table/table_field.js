/** @odoo-module **/

import { Component } from "@odoo/owl";
import { registry } from "@web/core/registry";
import { standardFieldProps } from "@web/views/fields/standard_field_props";

/**
 * A table that the server made: `{head: [text], rows: [{cells: [text], look: "success"|"warning"|"danger"|"muted"}],
 * note: text}`. Nothing of it is markup.
 */
export class TableField extends Component {
    static template = "industrial_iot.TableField";
    static props = { ...standardFieldProps };

    get table() {
        return this.props.record.data[this.props.name] || {};
    }

    look(row) {
        return row.look ? `text-${row.look}` : "";
    }
}

registry.category("fields").add("iiot_table", { component: TableField, supportedTypes: ["json"] });

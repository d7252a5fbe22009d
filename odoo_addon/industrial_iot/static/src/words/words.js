/** @odoo-module **/

import { Component } from "@odoo/owl";
import { registry } from "@web/core/registry";
import { standardFieldProps } from "@web/views/fields/standard_field_props";

/** Words with commas between them; one that is pressed goes into another field, which the option `into` names. */
export class Words extends Component {
    static template = "industrial_iot.Words";
    static props = { ...standardFieldProps, into: { type: String, optional: true } };

    get words() {
        return (this.props.record.data[this.props.name] || "").split(", ").filter(Boolean);
    }

    take(word) {
        return this.props.record.update({ [this.props.into]: word });
    }
}

registry.category("fields").add("iiot_words", {
    component: Words,
    supportedTypes: ["char"],
    extractProps: ({ options }) => ({ into: options.into }),
});

/** @odoo-module **/

import { Component, useRef } from "@odoo/owl";
import { registry } from "@web/core/registry";
import { standardWidgetProps } from "@web/views/widgets/standard_widget_props";

/** A label as it will be printed, and the button for that. It holds a token, so it is never asked for by an address. */
export class Label extends Component {
    static template = "industrial_iot.Label";
    static props = { ...standardWidgetProps };

    setup() {
        this.frame = useRef("frame");
    }

    get html() {
        return this.props.record.data.label_html || "";
    }

    print() {
        this.frame.el.contentWindow.focus();
        this.frame.el.contentWindow.print();
    }
}

registry.category("view_widgets").add("iiot_label", { component: Label });

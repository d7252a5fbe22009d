/** @odoo-module **/

import { Component, onMounted, onWillUnmount, xml } from "@odoo/owl";
import { registry } from "@web/core/registry";
import { standardWidgetProps } from "@web/views/widgets/standard_widget_props";

const ASK_EVERY_MS = 5000;

/** Reads the form's record again every few seconds, while it is shown, can be seen, and nobody edits it. */
export class Follow extends Component {
    static template = xml`<span/>`;
    static props = { ...standardWidgetProps };

    setup() {
        onMounted(() => {
            this.timer = setInterval(() => this.readAgain(), ASK_EVERY_MS);
        });
        onWillUnmount(() => clearInterval(this.timer));
    }

    async readAgain() {
        const record = this.props.record;
        // a dialog in front has begun with what is shown now
        const covered = document.querySelector(".modal.show, .o_dialog .modal");
        if (document.hidden || covered || this.reading || !record.resId || (await record.isDirty())) {
            return;
        }
        this.reading = true;
        try {
            await record.load();
        } catch {
            // the server is away for a moment; the next round asks again
        } finally {
            this.reading = false;
        }
    }
}

registry.category("view_widgets").add("iiot_follow", { component: Follow });

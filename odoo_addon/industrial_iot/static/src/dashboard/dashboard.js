/** @odoo-module **/

import { Component, onMounted, onWillStart, onWillUnmount, useState } from "@odoo/owl";
import { registry } from "@web/core/registry";
import { useService } from "@web/core/utils/hooks";
import { Layout } from "@web/search/layout";

const ASK_EVERY_MS = 30000;

/** The first page: how the installation is, and what to do next. */
export class Dashboard extends Component {
    static template = "industrial_iot.Dashboard";
    static components = { Layout };
    static props = ["*"];

    setup() {
        this.orm = useService("orm");
        this.action = useService("action");
        this.state = useState({ figures: null });
        this.display = { controlPanel: {} };
        onWillStart(() => this.ask(this.orm));
        onMounted(() => {
            this.timer = setInterval(() => !document.hidden && this.ask(this.orm.silent).catch(() => {}), ASK_EVERY_MS);
        });
        onWillUnmount(() => clearInterval(this.timer));
    }

    async ask(orm) {
        this.state.figures = await orm.call("iiot.dashboard", "get_figures", []);
    }

    open({ xmlid, context }) {
        return this.action.doAction(xmlid, { additionalContext: context || {} });
    }

    openRecord({ model, id }) {
        return this.action.doAction({ type: "ir.actions.act_window", res_model: model, res_id: id, views: [[false, "form"]] });
    }
}

registry.category("actions").add("iiot_dashboard", Dashboard);

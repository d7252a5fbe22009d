/** @odoo-module **/

import { markup } from "@odoo/owl";
import { registry } from "@web/core/registry";

/** Opens the history of readings with one value to begin with; the server knows which ones there are. */
async function openHistory(env) {
    const action = await env.services.orm.call("iiot.telemetry.day", "action_open_history", []);
    // the help of an action that is called for is text, other than that of one that is loaded
    return { ...action, help: markup(action.help || "") };
}

registry.category("actions").add("iiot_history", openHistory);

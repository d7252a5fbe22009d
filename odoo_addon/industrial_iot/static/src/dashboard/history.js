/** @odoo-module **/

import { registry } from "@web/core/registry";

/** Opens the history of readings with one value to begin with; the server knows which ones there are. */
function openHistory(env) {
    return env.services.orm.call("iiot.telemetry.day", "action_open_history", []);
}

registry.category("actions").add("iiot_history", openHistory);

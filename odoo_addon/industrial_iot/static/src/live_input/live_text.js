/** @odoo-module **/

import { useEffect } from "@odoo/owl";
import { registry } from "@web/core/registry";
import { useDebounced } from "@web/core/utils/timing";
import { CharField, charField } from "@web/views/fields/char/char_field";

export const LIVE_AFTER_MS = 400;

/** A text that is tried while it is typed, not only when it is left. */
export class LiveChar extends CharField {
    setup() {
        super.setup();
        const commitSoon = useDebounced(
            // what Odoo waits for before it asks the server
            () => this.input.el?.dispatchEvent(new Event("change")),
            LIVE_AFTER_MS
        );
        useEffect(
            (input) => {
                input?.addEventListener("input", commitSoon);
                return () => input?.removeEventListener("input", commitSoon);
            },
            () => [this.input.el]
        );
    }
}

registry.category("fields").add("iiot_live_char", { ...charField, component: LiveChar });

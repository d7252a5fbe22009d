/** @odoo-module **/

import { useEffect } from "@odoo/owl";
import { registry } from "@web/core/registry";
import { useDebounced } from "@web/core/utils/timing";
import { CharField, charField } from "@web/views/fields/char/char_field";
import { TextField, textField } from "@web/views/fields/text/text_field";

export const LIVE_AFTER_MS = 400;

/** What is typed there is tried while it is typed, not only when the field is left. */
function useLive(ref) {
    const commitSoon = useDebounced(
        // what Odoo waits for before it asks the server
        () => ref.el?.dispatchEvent(new Event("change")),
        LIVE_AFTER_MS
    );
    useEffect(
        (input) => {
            input?.addEventListener("input", commitSoon);
            return () => input?.removeEventListener("input", commitSoon);
        },
        () => [ref.el]
    );
}

export class LiveChar extends CharField {
    setup() {
        super.setup();
        useLive(this.input);
    }
}

export class LiveText extends TextField {
    setup() {
        super.setup();
        useLive(this.textareaRef);
    }
}

registry.category("fields").add("iiot_live_char", { ...charField, component: LiveChar });
registry.category("fields").add("iiot_live_text", { ...textField, component: LiveText });
